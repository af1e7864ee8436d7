"""Configuration of scBERT."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class ScBertConfig(CellConfig):
    """Sizes and options of an scBERT; the defaults are those of the released model.

    Parameters
    ----------
    vocab_size
        Genes, the token that stands behind them, and padding.
    num_values
        Values that a gene may have: ``num_values - 1`` bins, the first of which means no expression, and the mask.
    head_dim
        Width of an attention head; the heads together need not be as wide as the states.
    num_random_features
        Of the Performer, a head and layer.
    kernel_epsilon
        Added to each feature.
    key_maximum
        ``cell``: the largest product of a key and a direction is that of the cell. ``batch``: of the whole batch, as
        the original; a cell's result then depends on its neighbours. The two are the same for a batch of one.
    feature_redraw_interval
        Passes of training after which the directions are drawn anew; the original's pretraining has 1000. None: never,
        which an adapter needs, for it saves no directions.
    freeze_gene_embeddings
        Leave the gene embeddings (gene2vec) as they are in training, as the original.
    attentions_after_residual
        Compute the attention that is returned from the states behind the attention's own residual, as the original
        does: it is then not what the layer used.
    classifier_type
        ``convolution``: the original's, one number a gene, then three linear layers; it knows the genes by their place
        and reads the first ``num_classifier_tokens`` of the vocabulary. ``linear``: one layer on the cell embedding.
    num_classifier_tokens
        See there: the genes and the token behind them.
    classifier_hidden_size, classifier_output_size, classifier_dropout
        Widths of the two layers before the last one of ``convolution``, and dropout behind each.
    pooling
        The original has no cell embedding. ``mean``: over the genes; ``last``: the token behind them.
    """

    model_type = "scfm-scbert"
    poolings: ClassVar[tuple[str, ...]] = ("mean", "last")
    #: A profile has all genes, most of them without expression.
    hides_zeros: ClassVar[bool] = False

    vocab_size: int = 16_908
    num_values: int = 7
    hidden_size: int = 200
    num_hidden_layers: int = 6
    num_attention_heads: int = 10
    head_dim: int = 64
    intermediate_size: int = 800
    hidden_dropout_prob: float | int = 0.0
    num_random_features: int = 266
    kernel_epsilon: float = 1e-4
    key_maximum: str = "cell"
    feature_redraw_interval: int | None = None
    freeze_gene_embeddings: bool = True
    attentions_after_residual: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    cls_token_id: int | None = 16_906
    pad_token_id: int | None = 16_907
    classifier_type: str = "convolution"
    num_classifier_tokens: int = 16_907
    classifier_hidden_size: int = 512
    classifier_output_size: int = 128
    classifier_dropout: float | int = 0.0
    tie_word_embeddings: bool = False

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scBERT cannot have."""
        super().check()
        for name, known in (("key_maximum", ("cell", "batch")), ("classifier_type", ("convolution", "linear"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}.")
        if self.num_values < 3:
            raise ValueError(f"num_values={self.num_values} leaves no bin beside that of no expression and the mask.")
        if self.feature_redraw_interval is not None and self.feature_redraw_interval < 1:
            raise ValueError(f"feature_redraw_interval={self.feature_redraw_interval} must be at least 1, or None.")

    @property
    def mask_value(self) -> int:
        """What stands in place of a hidden value."""
        return self.num_values - 1
