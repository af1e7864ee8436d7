"""Configuration of UCE."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig


@strict
class UceConfig(CellConfig):
    """Sizes and options of a UCE; the defaults are those of the released model of four layers.

    Parameters
    ----------
    table_size
        Rows of the table of proteins, those of chromosomes and the four special ones included. There is no
        ``vocab_size``: without the vector of its protein no gene can be added.
    added_rows
        How many of them each species has that was added later; each has a file of its own.
    token_dim
        Width of the table.
    output_dim
        Width of the cell embedding.
    decoder_hidden_size
        Width of the first hidden layer between the last state and the cell embedding.
    expression_hidden_sizes
        Widths of the hidden layers of the head that tells expressed genes.
    normalize_queries
        Scale the vectors of the genes asked for to length 1, as those of the sentence. The released code does not say
        what training did.
    padding_bias
        ``masked``: padding is never attended to. ``legacy``: as the original, padding is attended to with 1 added to
        its scores. A cell's result then depends on the longest cell of its batch.
    pooling
        ``cls``: the decoded state of the first token, scaled to length 1. ``mean``: of the states of all tokens, as
        they are, hidden_size wide.
    """

    model_type = "scfm-uce"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*NOT_PREDICTIONS, "expressed_probability"]
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    table_size: int = 145_469
    added_rows: list[int] | None = None
    token_dim: int = 5120
    hidden_size: int = 1280
    num_hidden_layers: int = 4
    num_attention_heads: int = 20
    intermediate_size: int = 5120
    output_dim: int = 1280
    decoder_hidden_size: int = 1024
    expression_hidden_sizes: list[int] | None = None
    normalize_queries: bool = True
    padding_bias: str = "masked"
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.05
    attention_probs_dropout_prob: float | int = 0.05
    norm_position: str = "post"
    max_position_embeddings: int = 1536
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 0
    cls_token_id: int | None = 3
    tie_word_embeddings: bool = False
    pooling: str = "cls"

    def check(self) -> None:
        """Raise ValueError if a field has a value that a UCE cannot have."""
        super().check()
        choices = {"padding_bias": ("masked", "legacy"), "norm_position": ("post",)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}.")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be even and a multiple of "
                f"num_attention_heads={self.num_attention_heads}."
            )
        if sum(self.added_rows or ()) >= self.table_size:
            raise ValueError(f"added_rows={self.added_rows} leave nothing of the {self.table_size} rows of the table.")

    @property
    def part_sizes(self) -> list[int]:
        """Rows of each file of the table."""
        added = self.added_rows or []
        return [self.table_size - sum(added), *added]

    @property
    def expression_sizes(self) -> list[int]:
        """Widths of the hidden layers of the head that tells expressed genes."""
        return self.expression_hidden_sizes or [2048, 512, 128]
