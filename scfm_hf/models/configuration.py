"""What the configurations of all families share: checks that transformers leaves out."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedConfig

from scfm_hf.errors import CheckpointError, CompatibilityError

if TYPE_CHECKING:
    import os

#: Output fields that ``Trainer.predict`` and ``compute_metrics`` must not collect: they are large, and no predictions.
NOT_PREDICTIONS = ("last_hidden_state", "cell_embedding", "hidden_states", "attentions")

#: Keys that transformers itself writes into a config.json without declaring them as fields.
_WRITTEN_BY_TRANSFORMERS = frozenset(
    {
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",  # these two by Trainer, where its processing_class has such tokens
        "dtype",
        "eos_token_id",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "peft_type",
        "per_layer_config",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "trust_remote_code",
        "use_cache",
        "tie_word_embeddings",
        "experts_implementation",
        "transformers_version",
        "transformers_weights",
        "model_type",
    }
)


class CellConfig(PreTrainedConfig):
    """Base configuration of every family.

    Unknown fields raise (transformers would save a typo as if it were an option), and a folder of another
    ``model_type`` is refused (transformers would load it with this class's defaults).

    Parameters
    ----------
    pooling
        Recipe of ``cell_embedding``; the family's configuration lists its names in ``poolings``.
    embedding_layer
        Which of ``hidden_states`` is pooled: -1 is the last layer, -2 the one before it, 0 the input embeddings.
    vocabulary_digest
        sha256 of the ordered vocabulary that the model was built for; a tokenizer with another one is refused.
    """

    model_type = "scfm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = list(NOT_PREDICTIONS)
    #: Names that ``pooling`` may take.
    poolings: ClassVar[tuple[str, ...]] = ()
    #: Whether pretraining on hidden values hides those that are 0, too.
    hides_zeros: ClassVar[bool] = True

    pooling: str = "mean"
    embedding_layer: int = -1
    vocabulary_digest: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(
            name
            for name in kwargs
            if not name.startswith("_") and name not in _WRITTEN_BY_TRANSFORMERS | _generation_fields()
        )
        if unknown:
            known = ", ".join(sorted(field.name for field in fields(self) if not field.name.startswith("_")))
            raise ValueError(
                f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}. Its fields are: {known}."
            )
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError if a field has a value that the family cannot have; families extend it."""
        if self.poolings and self.pooling not in self.poolings:
            raise ValueError(f"pooling={self.pooling!r} is not one of {', '.join(map(repr, self.poolings))}.")
        layers = getattr(self, "num_hidden_layers", None)
        if layers is not None and not -(layers + 1) <= self.embedding_layer <= layers:
            raise ValueError(f"embedding_layer={self.embedding_layer} does not exist: the model has {layers} layers.")

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration as transformers does, and refuse one of another model type.

        Raises
        ------
        CompatibilityError
            If the folder holds another kind of model.
        CheckpointError
            If config.json names no model type at all.
        """
        values, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = values.get("model_type")
        if values and cls.model_type != CellConfig.model_type and found != cls.model_type:
            what = f"a {found!r} model" if found else "no model_type"
            error = CompatibilityError if found else CheckpointError
            raise error(
                f"{pretrained_model_name_or_path} holds {what}, not {cls.model_type!r}. If these are the original's "
                "own files, convert them first: scfm convert <folder> <output>. If it is another family, load it with "
                "the Auto classes."
            )
        return values, unused


def _generation_fields() -> frozenset[str]:
    """Names of generation options, which transformers accepts in any configuration and drops."""
    from transformers import GenerationConfig

    return frozenset(GenerationConfig._get_default_generation_params())
