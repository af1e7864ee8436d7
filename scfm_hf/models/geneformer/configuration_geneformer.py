"""Configuration of Geneformer."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class GeneformerConfig(CellConfig):
    """Sizes and options of a Geneformer; the defaults are those of Geneformer-V1-10M.

    Parameters
    ----------
    version
        ``V1`` (cells without special tokens) or ``V2`` (``<cls>`` first, ``<eos>`` last).
    pooling
        ``cls`` takes the first token, ``mean`` the mean over the genes, special tokens left out. The authors use the
        mean for V1 and ``<cls>`` for V2.
    embedding_layer
        The authors pool the layer before the last, -2.
    task_labels
        Of the multi-task model: task -> number of its labels.
    task_weights
        Of the multi-task model: weight of each task's loss; None weighs all alike.
    task_pooling
        Of the multi-task model: ``cls``, or ``attention`` for a learned weighted mean over the tokens.
    pool_padding
        Let attention pooling count padding, as the original does; a cell's result then depends on its batch.
    """

    model_type = "scfm-geneformer"
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    version: str = "V1"
    vocab_size: int = 25_426
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.02
    attention_probs_dropout_prob: float | int = 0.02
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    mask_token_id: int | None = 1
    cls_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    # What transformers' BERT layers ask for: an encoder without cross-attention.
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    pooling: str = "mean"
    embedding_layer: int = -2
    task_labels: dict[str, int] | None = None
    task_weights: list[float] | None = None
    task_pooling: str = "cls"
    pool_padding: bool = False

    def check(self) -> None:
        """Raise ValueError if a field has a value that a Geneformer cannot have."""
        super().check()
        if self.version not in ("V1", "V2"):
            raise ValueError(f"version={self.version!r} is neither 'V1' nor 'V2'.")
        if self.task_pooling not in ("cls", "attention"):
            raise ValueError(f"task_pooling={self.task_pooling!r} is neither 'cls' nor 'attention'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids of ``<cls>`` and ``<eos>``, where the version has them."""
        return tuple(token for token in (self.cls_token_id, self.eos_token_id) if isinstance(token, int))
