"""Configuration of SCimilarity."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

SELECTIONS = ("semihard", "hardest", "random")


@strict
class SCimilarityConfig(CellConfig):
    """Sizes and options of a SCimilarity; the defaults are those of the released training script.

    Parameters
    ----------
    pooling
        ``unit``: the projection at length 1, as the authors do; ``projection``: before it is brought to that length. Of
        an inner layer (``embedding_layer``) it is the state itself, at length 1 or as it is.
    vocab_size, num_genes
        Entries of the gene table, padding included; genes of a profile, the first ``num_genes`` ids.
    hidden_sizes
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    latent_size
        Width of the embedding; ``hidden_size`` is another name of it.
    hidden_dropout_prob, input_dropout_prob
        Dropout before each hidden layer, and of the input values.
    batch_norm_eps
        Added to the variances of the batch norms.
    initializer_range
        Standard deviation of fresh weights.
    triplet_margin
        By how much a cell shall be closer to one of its label than to one of another.
    triplet_loss_weight
        Share of the triplet loss; the rest is the squared error of the reconstruction. With 0 or 1 one of them alone.
    negative_selection
        Which cell of another label stands in a triplet: ``semihard`` (at random among those that are farther than the
        positive one, but by less than the margin), ``hardest`` (the closest), or ``random`` (any within the margin).
    across_studies
        Where studies are given, take pairs of one label from two of them only.
    label_ancestors
        Name of a label -> names of the labels that are its ancestors in the Cell Ontology: a T cell is no negative of a
        CD4-positive one. Names that ``id2label`` does not have are of no account. None: all labels are apart.
    projection_l1_weight
        Weight of the sum of absolute values of the projection in the loss. The original has 1e-4 times the learning
        rate of the step.
    """

    model_type = "scfm-scimilarity"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *NOT_PREDICTIONS,
        "latent",
        "losses",
        "triplet_losses",
        "triplet_counts",
    ]
    attribute_map: ClassVar[dict[str, str]] = {"hidden_size": "latent_size"}
    poolings: ClassVar[tuple[str, ...]] = ("unit", "projection")

    vocab_size: int = 28_232
    num_genes: int = 28_231
    hidden_sizes: list[int] | tuple[int, ...] = (1024, 1024, 1024)
    latent_size: int = 128
    hidden_dropout_prob: float | int = 0.5
    input_dropout_prob: float | int = 0.4
    batch_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 28_231
    tie_word_embeddings: bool = False
    pooling: str = "unit"
    triplet_margin: float | int = 0.05
    triplet_loss_weight: float | int = 0.001
    negative_selection: str = "semihard"
    across_studies: bool = True
    label_ancestors: dict[str, list[str]] | None = None
    projection_l1_weight: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_sizes = list(self.hidden_sizes)
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Hidden layers of the encoder."""
        return len(self.hidden_sizes)

    def check(self) -> None:
        """Raise ValueError if a field has a value that a SCimilarity cannot have."""
        super().check()
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes={self.hidden_sizes} must name the width of one hidden layer at least.")
        if self.negative_selection not in SELECTIONS:
            raise ValueError(
                f"negative_selection={self.negative_selection!r} is not one of {', '.join(map(repr, SELECTIONS))}."
            )
        if not 0 <= self.triplet_loss_weight <= 1:
            raise ValueError(f"triplet_loss_weight={self.triplet_loss_weight} is no share between 0 and 1.")
        if self.num_genes > self.vocab_size:
            raise ValueError(f"num_genes={self.num_genes} is more than vocab_size={self.vocab_size}.")
