"""Configuration of scPRINT."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

#: Cell layers of a model with ``cell_blocks``; the original has always six.
N_CELL_LAYERS = 6


@strict
class ScPrintConfig(CellConfig):
    """Sizes and options of an scPRINT; the defaults are those of the medium model.

    Parameters
    ----------
    gene_vector_size
        Width of the table of protein vectors; wider than ``hidden_size``: they are averaged in equal windows. None:
        ``hidden_size``, as the released checkpoints store them.
    pooling
        ``classes``: mean of the tokens of ``pooled_classes`` (all classes if there are none); ``mean``: of all cell
        tokens, that of the depth included.
    pooled_classes
        Names among ``class_names``.
    class_names, class_sizes
        The classes in the order of their tokens, and the number of leaf labels of each.
    label_hierarchy
        Class -> number of a group, as text -> the leaf labels in it.
    label_names
        Class -> ontology ids of its labels, groups included, by number as text.
    class_hidden_sizes
        Hidden layers of the heads of classes.
    class_bottlenecks
        Class -> numbers that its token is squeezed to, each rounded to one of two levels; None: none is squeezed.
    normalization
        What a count x becomes: ``log``, log2(1 + x); or ``sum``, x / sum over the cell's genes.
    value_encoder_layers
        Linear layers of the networks that read values and depth.
    depth_token
        The depth is a token of the cell; otherwise it enters the head of counts.
    base_first
        Order of the cell tokens: base, depth, classes as in version 1; else depth, metacell, base, classes.
    metacell
        There is a token that says whether a cell is a metacell.
    cell_blocks
        The cell tokens have layers of their own, which read the genes; genes do not see them.
    cell_values
        There is a head that predicts counts from the cell embedding.
    zero_inflated
        Counts have additional zeros; otherwise they are negative binomial.
    num_batches
        Data sets that the head of the adversarial term on batches tells apart; 0: there is none.
    class_weight, dissimilarity_weight, adversarial_weight, cell_expression_weight, similarity_weight
        Of the terms of the loss; 0 leaves one out. The term of batches has ``class_weight / 16``.
    contrastive_weight
        Of the contrast of passes in a training step.
    similarity_threshold, contrastive_temperature
        Of their terms.
    profile_error
        Add the squared error of the profiles, scaled to a total of 10,000, to the loss of the expression.
    first_version_losses
        Terms of version 1 for dissimilarity and the scale of the profile error.
    group_column_in_mean
        Divide the loss of classes by a number more a cell wherever the batch has a label that is a group, as the
        original does.
    first_version_contrast
        Contrast of version 1, which takes its cosines along the wrong axis.
    """

    model_type = "scfm-scprint"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *NOT_PREDICTIONS, "cell_states", "cell_hidden_states", "dispersion", "zero_logits", "class_logits",
        "cell_mean", "cell_dispersion", "cell_zero_logits", "terms",
    ]  # fmt: skip
    poolings: ClassVar[tuple[str, ...]] = ("classes", "mean")

    vocab_size: int = 44_757
    gene_vector_size: int | None = None
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    intermediate_size: int = 1024
    hidden_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    pooling: str = "classes"
    pooled_classes: list[str] | None = None
    class_names: list[str] | None = None
    class_sizes: list[int] | None = None
    label_hierarchy: dict[str, dict[str, list[int]]] | None = None
    label_names: dict[str, dict[str, str]] | None = None
    class_hidden_sizes: list[int] | None = None
    class_bottlenecks: dict[str, int] | None = None
    normalization: str = "log"
    value_encoder_layers: int = 3
    depth_token: bool = True
    base_first: bool = False
    metacell: bool = False
    cell_blocks: bool = False
    cell_values: bool = True
    zero_inflated: bool = True
    num_batches: int = 0
    class_weight: float | int = 1.0
    dissimilarity_weight: float | int = 0.1
    adversarial_weight: float | int = 0.1
    cell_expression_weight: float | int = 1.0
    similarity_weight: float | int = 0.1
    similarity_threshold: float | int = 0.4
    contrastive_weight: float | int = 0.1
    contrastive_temperature: float | int = 0.5
    profile_error: bool = False
    first_version_losses: bool = False
    first_version_contrast: bool = False
    group_column_in_mean: bool = False

    def check(self) -> None:
        """Raise ValueError if a field has a value that an scPRINT cannot have."""
        super().check()
        if self.normalization not in ("log", "sum"):
            raise ValueError(f"normalization={self.normalization!r} is neither 'log' nor 'sum'.")
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.n_key_value_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads} and "
                f"num_key_value_heads={self.num_key_value_heads}: each must be a multiple of the next."
            )
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} must be even: half of the positions are sines.")
        if (self.gene_vector_size or self.hidden_size) < self.hidden_size:
            raise ValueError(
                f"gene_vector_size={self.gene_vector_size} is less than hidden_size={self.hidden_size}: protein "
                "vectors can be squeezed, not stretched."
            )
        for name, chosen in (("pooled_classes", self.pooled_classes), ("class_bottlenecks", self.class_bottlenecks)):
            unknown = sorted(set(chosen or ()) - set(self.class_names or ()))
            if unknown:
                raise ValueError(f"{name} has {', '.join(unknown)}, which class_names does not have.")
        if len(self.class_names or ()) != len(self.class_sizes or ()):
            raise ValueError(f"class_names={self.class_names} and class_sizes={self.class_sizes}: one size a name.")
        if self.cell_blocks and self.embedding_layer > N_CELL_LAYERS:
            raise ValueError(
                f"embedding_layer={self.embedding_layer} does not exist: cells have {N_CELL_LAYERS} layers."
            )

    @property
    def n_key_value_heads(self) -> int:
        """Heads of keys and values; as many as of queries unless they are shared."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def first_class(self) -> int:
        """Place of the first class among the cell tokens."""
        return 1 + self.depth_token + self.metacell

    @property
    def n_cell_tokens(self) -> int:
        """Tokens of the cell before those of its genes."""
        return self.first_class + len(self.class_names or ())

    @property
    def labels_of_classes(self) -> dict[str, int]:
        """Number of leaf labels by class, in the order of the class tokens."""
        return dict(zip(self.class_names or (), self.class_sizes or (), strict=True))
