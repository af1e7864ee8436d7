"""Configuration of scGPT-spatial."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

_DECODERS = ("experts", "dense")
_NORM_POSITIONS = ("post", "residual")
_PADDING_STYLES = ("ignored", "zeros", "states")


@strict
class ScGPTSpatialConfig(CellConfig):
    """Sizes and options of an scGPT-spatial; the defaults are those of the released model.

    Parameters
    ----------
    pooling
        ``cls``: state of the first token. ``mean``: over real tokens. ``weighted``: sum weighted by the values,
        negative ones (masks) counted as 0, then scaled to length 1; ``signed_weighted``: the same with the values as
        they are, as the original.
    pool_padding
        What padding does to ``mean`` and ``signed_weighted``: ``ignored``; or counted with ``zeros``, or with the
        ``states`` that stand there, as the original does. A cell's result then depends on its batch.
    normalize_embedding
        Scale ``cell_embedding`` to length 1, as the authors do for zero-shot embedding. Heads see it before that.
    pad_value, mask_value, max_value
        Value at padding and at masked positions, and the largest value told apart.
    norm_position
        Place of the layer norms, see :class:`scfm_hf.nn.transformer.TransformerLayer`.
    generative
        The model has a flag embedding for genes that are to be generated.
    decoder_style
        Of values from gene states: ``experts``, or one ``dense`` network as in scGPT.
    num_experts, num_experts_per_token
        Networks of the mixture, and how many of them a gene goes through.
    explicit_zero_probability
        A probability of being expressed beside the value; of the dense decoder alone.
    cell_decoder, neighbour_decoder
        Whether values are also predicted from the cell's embedding, and from the embeddings of its spatial neighbours.
    num_neighbours
        How many neighbours those are.
    num_batch_labels, batch_names
        Batches or protocols that the decoders are told of (0: none), and what their numbers mean, where the checkpoint
        says it.
    pretraining_classifier, classifier_layers, num_adversarial_labels
        Cell classifier and adversarial batch classifier among the pretraining heads, and their depth.
    ecs_threshold, ecs_weight, neighbour_weight, adversarial_weight
        Of the losses; an ``ecs_weight`` of 0 switches that loss off. How the authors weighted theirs is not published:
        the default is the plain sum.
    """

    model_type = "scfm-scgpt_spatial"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*NOT_PREDICTIONS, "losses"]
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean", "weighted", "signed_weighted")

    vocab_size: int = 60_697
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 60_694
    cls_token_id: int | None = 60_695
    tie_word_embeddings: bool = False
    pooling: str = "cls"
    pool_padding: str = "ignored"
    normalize_embedding: bool = True
    pad_value: float | int = -2
    mask_value: float | int = -1
    max_value: float | int = 512
    norm_position: str = "post"
    generative: bool = True
    decoder_style: str = "experts"
    num_experts: int = 4
    num_experts_per_token: int = 2
    explicit_zero_probability: bool = False
    cell_decoder: bool = True
    neighbour_decoder: bool = True
    num_neighbours: int = 6
    num_batch_labels: int = 0
    batch_names: list[str] | None = None
    pretraining_classifier: bool = False
    classifier_layers: int = 3
    num_adversarial_labels: int = 0
    ecs_threshold: float | int = 0.8
    ecs_weight: float | int = 0
    neighbour_weight: float | int = 1
    adversarial_weight: float | int = 1

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scGPT-spatial cannot have."""
        super().check()
        choices = {"decoder_style": _DECODERS, "norm_position": _NORM_POSITIONS, "pool_padding": _PADDING_STYLES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}.")
        if self.decoder_style == "experts" and self.explicit_zero_probability:
            raise ValueError(
                "The decoder of experts has no probability of being expressed; take decoder_style='dense'."
            )
        if not 1 <= self.num_experts_per_token <= self.num_experts:
            raise ValueError(
                f"num_experts_per_token={self.num_experts_per_token} must lie between 1 and "
                f"num_experts={self.num_experts}."
            )
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours={self.num_neighbours}: there must be at least one.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
