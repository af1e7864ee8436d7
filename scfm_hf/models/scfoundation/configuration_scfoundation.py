"""Configuration of scFoundation."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig


@strict
class ScFoundationConfig(CellConfig):
    """Sizes and options of an scFoundation; the defaults are those of the released models.

    Parameters
    ----------
    vocab_size
        Genes, two read-depth tokens and padding, in this order.
    target_depth_token_id, source_depth_token_id, pad_token_id
        The tokens behind the genes: the depth that is asked for, the depth that the cell has, padding.
    pooling
        ``all``: states of source depth and target depth, maximum and mean over the genes, one behind the other (4 x
        ``hidden_size``; zeros for depth tokens that a cell does not have). ``max``: maximum over all tokens.
    pool_padding
        Let padding into the classifier's maximum, as the original; a cell's result then depends on its batch.
    num_bins, bin_alpha
        Of the value embedding: bins that a value is softly divided among, and the weight of the first layer.
    mask_value, pad_value, mark_by_value
        As in the original: a value equal to ``mask_value`` is taken for a masked one, one equal to ``pad_value`` for
        padding, which others do not see although it is pooled. No log-normalised count is so large.
    decoder_hidden_size, decoder_num_layers, decoder_num_heads, decoder_head_size, decoder_intermediate_size
        Sizes of the decoder.
    decoder_dropout_prob
        Of what the decoder's layers add.
    num_random_features, kernel_epsilon, key_maximum
        Of the decoder's attention, see :class:`scfm_hf.nn.performer.PerformerAttention`. ``key_maximum="batch"`` is the
        original's: a cell's result then depends on its batch.
    feature_redraw_interval
        Redraw the random features every so many passes of training (the original: 1000); None keeps those of the
        checkpoint.
    attentions_after_residual
        Compute the decoder's attention probabilities from states that attention has already changed, as the original.
    classifier_hidden_size
        Width of the classifier's hidden layer.
    value_mask_rate, zero_mask_rate
        Shares of the expressed and of the other genes that pretraining hides.
    """

    model_type = "scfm-scfoundation"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *NOT_PREDICTIONS,
        "encoder_output",
        "gene_embeddings",
        "decoder_hidden_states",
        "decoder_attentions",
    ]
    poolings: ClassVar[tuple[str, ...]] = ("all", "max")
    #: Of the encoder's layers, see :class:`scfm_hf.nn.transformer.TransformerLayer`.
    norm_position: ClassVar[str] = "post"

    vocab_size: int = 19_267
    target_depth_token_id: int = 19_264
    source_depth_token_id: int = 19_265
    pad_token_id: int | None = 19_266
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    pooling: str = "all"
    pool_padding: bool = False
    num_bins: int = 100
    bin_alpha: float | int = 1.0
    mask_value: float | int = 102
    pad_value: float | int = 103
    mark_by_value: bool = False
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 6
    decoder_num_heads: int = 8
    decoder_head_size: int = 64
    decoder_intermediate_size: int = 2048
    decoder_dropout_prob: float | int = 0.0
    num_random_features: int | None = None
    kernel_epsilon: float = 1e-4
    key_maximum: str = "cell"
    feature_redraw_interval: int | None = None
    attentions_after_residual: bool = False
    classifier_hidden_size: int = 256
    value_mask_rate: float | int = 0.3
    zero_mask_rate: float | int = 0.03

    @property
    def num_genes(self) -> int:
        """Genes that the model knows; their ids are 0 to this, exclusive."""
        return self.target_depth_token_id

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scFoundation cannot have."""
        super().check()
        if self.key_maximum not in ("cell", "batch"):
            raise ValueError(f"key_maximum={self.key_maximum!r} is neither 'cell' nor 'batch'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
        first = self.target_depth_token_id
        if self.source_depth_token_id != first + 1 or self.vocab_size < first + 2:
            raise ValueError(
                "The tokens of target depth and source depth must follow the genes in this order; here they are "
                f"{first} and {self.source_depth_token_id} of {self.vocab_size}."
            )
        for name in ("value_mask_rate", "zero_mask_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is no share: give a number from 0 to 1.")
