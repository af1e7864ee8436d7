"""Configuration of Nicheformer."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

#: What the head of cells may predict, by the names of the original.
SUPERVISED_TASKS = (
    "niche_classification",
    "niche_multiclass_classification",
    "niche_regression",
    "density_regression",
)


@strict
class NicheformerConfig(CellConfig):
    """Sizes and options of a Nicheformer; the defaults are those of the released model.

    Parameters
    ----------
    num_special_tokens
        Ids below this are no genes: mask, padding, and the tokens of modality, species and assay.
    position_type
        ``learned``, or ``sinusoidal`` (computed, nothing is stored).
    pooling
        ``mean``: over the genes. ``padded_mean``: as the original, over all positions of the full context, padding
        included; shorter inputs are padded for it.
    pool_context
        Let the tokens of species, assay and modality into the mean. ``padded_mean`` leaves out the first three
        positions otherwise, whatever they are.
    supervised_task
        What the head of cells predicts: ``niche_classification`` (one class a cell: niche, region, cell type),
        ``niche_multiclass_classification`` (for each of ``num_cell_types`` the number of neighbours, as a class),
        ``niche_regression`` (the neighbours' composition, one number a label), ``density_regression`` (their number).
    num_cell_types
        Of ``niche_multiclass_classification``.
    feature_layers
        States that the head sees, numbered as ``hidden_states``; None takes the last.
    feature_combination
        How several of them become one: ``mean``, ``sum`` or ``concat``.
    classifier_context
        Let the context tokens into the mean that the head sees.
    classifier_dense
        A linear layer and tanh in the head, before the last one.
    regress_distribution
        Of ``niche_regression``: predict shares, by a softmax.
    label_distribution
        How counts become shares with ``regress_distribution``: ``share`` of the total, or ``softmax`` of the counts as
        in the original.
    ignore_zeros
        Leave labels of 0 out of the losses of classes.
    """

    model_type = "scfm-nicheformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*NOT_PREDICTIONS, "representation"]
    poolings: ClassVar[tuple[str, ...]] = ("mean", "padded_mean")

    vocab_size: int = 20_340
    num_special_tokens: int = 30
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 1024
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 1500
    position_type: str = "learned"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 1
    mask_token_id: int | None = 0
    cls_token_id: int | None = 2
    # What transformers' BERT layers ask for: an encoder without cross-attention.
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = False
    pooling: str = "mean"
    pool_context: bool = False
    supervised_task: str = "niche_classification"
    num_cell_types: int = 1
    feature_layers: list[int] | None = None
    feature_combination: str = "mean"
    classifier_context: bool = False
    classifier_dense: bool = False
    regress_distribution: bool = False
    label_distribution: str = "share"
    ignore_zeros: bool = False

    def check(self) -> None:
        """Raise ValueError if a field has a value that a Nicheformer cannot have."""
        super().check()
        choices = {
            "position_type": ("learned", "sinusoidal"),
            "supervised_task": SUPERVISED_TASKS,
            "feature_combination": ("mean", "sum", "concat"),
            "label_distribution": ("share", "softmax"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
        absent = [layer for layer in self.feature_layers or () if not 0 <= layer <= self.num_hidden_layers]
        if absent or self.feature_layers == []:
            raise ValueError(
                f"feature_layers={self.feature_layers} must name states from 0 (the embeddings) to "
                f"{self.num_hidden_layers}."
            )

    @property
    def feature_size(self) -> int:
        """Width of what the head of cells sees."""
        joined = len(self.feature_layers or (0,)) if self.feature_combination == "concat" else 1
        return self.hidden_size * joined
