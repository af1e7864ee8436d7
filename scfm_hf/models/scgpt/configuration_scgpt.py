"""Configuration of scGPT."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

_VALUE_STYLES = ("continuous", "category", "scaling")
_MVC_STYLES = (None, "inner product", "inner product, detach", "concat query", "sum query")
_PADDING_STYLES = ("ignored", "zeros", "states")


@strict
class ScGPTConfig(CellConfig):
    """Sizes and options of an scGPT; the defaults are those of the whole-human model.

    Parameters
    ----------
    pooling
        ``cls``: state of the first token. ``mean``: over real tokens. ``weighted``: sum weighted by the values,
        negative ones (masks) counted as 0, then scaled to length 1; ``signed_weighted``: the same with the values as
        they are, as the original.
    pool_padding
        What padding does to ``mean`` and ``signed_weighted``: ``ignored``; or, as in the original, counted with
        ``zeros`` (its inference path) or with the ``states`` that stand there (its training path). A cell's result then
        depends on its batch.
    normalize_embedding
        Scale ``cell_embedding`` to length 1, as the authors do for zero-shot embedding. Heads see it before that.
    value_style
        How values enter: a small network (``continuous``), an embedding of the bin (``category``), or as factor
        (``scaling``).
    num_bins, pad_value, mask_value, max_value
        Of the values: bins, value at padding and at masked positions, largest value told apart.
    norm_position
        Place of the layer norms, see :class:`scfm_hf.nn.transformer.TransformerLayer`.
    num_domains, plain_batch_norm
        Batch norms of the summed embedding: one a domain (0: none), or one for all.
    domain_of_first_cell, batch_norm_counts_padding
        As in the original: let the first cell's domain choose the norm of the whole batch, and padding into the
        statistics of training.
    generative
        The model has a flag embedding for genes that are to be generated.
    num_perturbation_flags
        Rows of the perturbation embedding (0: none).
    num_batch_labels, num_modalities, modality_names
        Batches and modalities that the decoders are told (0: none); what the numbers in ``token_type_ids`` mean, the
        special tokens included, where the checkpoint says it.
    explicit_zero_probability, decoder_style, decoder_activation, decoder_adaptive_bias
        Of the value decoder: a probability of being expressed beside the value; ``plain``, or ``affine`` (coefficient x
        value + bias) with an activation of both and a bias scaled by the cell's mean value.
    mvc_style
        Prediction of values from the cell embedding; None: no such head.
    pretraining_classifier, classifier_layers, num_adversarial_labels
        Cell classifier and adversarial batch classifier among the pretraining heads, and their depth.
    ecs_threshold, ecs_weight, adversarial_weight, contrastive_weight, contrastive_temperature, prompted_weight
        Of the losses; a threshold or weight of 0 switches one off. The prompted loss is that of a second generative
        pass, in which the cell embedding of the first takes the place of ``<cls>`` (the original adds it after 1,000
        steps).
    """

    model_type = "scfm-scgpt"
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
    value_style: str = "continuous"
    num_bins: int = 51
    pad_value: float | int = -2
    mask_value: float | int = -1
    max_value: float | int = 512
    norm_position: str = "post"
    num_domains: int = 0
    plain_batch_norm: bool = False
    domain_of_first_cell: bool = False
    batch_norm_counts_padding: bool = False
    generative: bool = False
    num_perturbation_flags: int = 0
    num_batch_labels: int = 0
    num_modalities: int = 0
    modality_names: list[str] | None = None
    explicit_zero_probability: bool = False
    decoder_style: str = "plain"
    decoder_activation: str | None = None
    decoder_adaptive_bias: bool = False
    mvc_style: str | None = "inner product"
    pretraining_classifier: bool = False
    classifier_layers: int = 3
    num_adversarial_labels: int = 0
    ecs_threshold: float | int = 0.3
    ecs_weight: float | int = 0
    adversarial_weight: float | int = 1
    contrastive_weight: float | int = 0
    contrastive_temperature: float | int = 0.5
    prompted_weight: float | int = 0

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scGPT cannot have."""
        super().check()
        choices = {
            "value_style": _VALUE_STYLES,
            "mvc_style": _MVC_STYLES,
            "pool_padding": _PADDING_STYLES,
            "norm_position": ("post", "residual"),
            "decoder_style": ("plain", "affine"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}.")
        if self.explicit_zero_probability and self.mvc_style in ("concat query", "sum query"):
            raise ValueError(f"mvc_style={self.mvc_style!r} has no zero probability; take 'inner product', or None.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
