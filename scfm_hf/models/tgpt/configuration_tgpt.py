"""Configuration of tGPT."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class TGPTConfig(CellConfig):
    """Sizes and options of a tGPT; the defaults are those of the published model.

    Parameters
    ----------
    trained_length
        Tokens of the cells that the model was trained on: later positions exist but were never trained.
    add_pad_embedding
        Add the embedding of padding at every position, as the original does without meaning to (its tokenizer gives
        zeros as ``token_type_ids``, which GPT-2 looks up among the words). The published weights were trained so.
    pooling
        ``mean``: over the genes, start and end token left out, as the authors. ``last``: state of the last token, which
        has seen the whole cell.
    """

    model_type = "scfm-tgpt"
    poolings: ClassVar[tuple[str, ...]] = ("mean", "last")
    # What transformers' GPT-2 blocks ask for under names of their own.
    attribute_map: ClassVar[dict[str, str]] = {
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "activation_function": "hidden_act",
        "layer_norm_epsilon": "layer_norm_eps",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
    }

    vocab_size: int = 21_150
    hidden_size: int = 1024
    num_hidden_layers: int = 8
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 1024
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    unk_token_id: int | None = 3
    # What transformers' GPT-2 blocks ask for: plain scaled attention, no cross-attention.
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    trained_length: int = 64
    add_pad_embedding: bool = True

    def check(self) -> None:
        """Raise ValueError if a field has a value that a tGPT cannot have."""
        super().check()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.trained_length > self.max_position_embeddings:
            raise ValueError(
                f"trained_length={self.trained_length} is more than max_position_embeddings="
                f"{self.max_position_embeddings}."
            )
        if self.add_pad_embedding and self.pad_token_id is None:
            raise ValueError("add_pad_embedding=True needs a pad_token_id.")
