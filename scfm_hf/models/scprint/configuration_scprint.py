"""Configuration of scPRINT."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class ScPrintConfig(CellConfig):
    """Sizes and options of an scPRINT; the defaults are those of the medium model.

    Parameters
    ----------
    pooling
        ``classes``: mean of the tokens of ``pooled_classes`` (all classes if there are none); ``mean``: of all cell
        tokens, the depth token included.
    pooled_classes
        Names among ``class_sizes``.
    class_sizes
        Number of leaf labels of each class, in the order of the class tokens.
    label_hierarchy
        Class -> number of a group, as text -> the leaf labels in it.
    label_names
        Class -> ontology ids of its labels, groups included, by number as text.
    normalization
        What a count x becomes: ``log``, log2(1 + x); or ``sum``, x / sum over the cell's genes.
    value_encoder_layers
        Linear layers of the networks that read values and depth.
    base_first
        Order of the cell tokens: base, depth, classes as in version 1; else depth, metacell, base, classes.
    metacell
        There is a token that says whether a cell is a metacell.
    cell_values
        There is a head that predicts counts from the cell embedding.
    """

    model_type = "scfm-scprint"
    poolings: ClassVar[tuple[str, ...]] = ("classes", "mean")

    vocab_size: int = 44_756
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    intermediate_size: int = 1024
    hidden_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    pooling: str = "classes"
    pooled_classes: list[str] | None = None
    class_sizes: dict[str, int] | None = None
    label_hierarchy: dict[str, dict[str, list[int]]] | None = None
    label_names: dict[str, dict[str, str]] | None = None
    class_hidden_sizes: list[int] | None = None
    normalization: str = "log"
    value_encoder_layers: int = 3
    base_first: bool = True
    metacell: bool = False
    cell_values: bool = True

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scPRINT cannot have."""
        super().check()
        if self.normalization not in ("log", "sum"):
            raise ValueError(f"normalization={self.normalization!r} is neither 'log' nor 'sum'.")
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads} and "
                f"num_key_value_heads={self.num_key_value_heads}: each must be a multiple of the next."
            )
        unknown = sorted(set(self.pooled_classes or ()) - set(self.class_sizes or ()))
        if unknown:
            raise ValueError(f"pooled_classes has {', '.join(unknown)}, which class_sizes does not have.")
