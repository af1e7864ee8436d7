"""Configuration of CellLM."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig


@strict
class CellLMConfig(CellConfig):
    """Sizes and options of a CellLM; the defaults are those of the released model.

    Parameters
    ----------
    num_genes
        Genes; their ids come first. ``vocab_size`` counts ``<cls>`` and padding too.
    cls_token_id, pad_token_id
        Ids of ``<cls>`` and of padding: those behind the genes.
    num_values
        Tokens of expression: 0 to 5, then those of ``<cls>`` and of padding.
    cls_value_id, pad_value_id, mask_value_id
        Tokens of expression that mean no expression. What the original put in place of masked values is not published;
        as in scBERT, it is the token of padding here.
    head_dim, num_random_features, kernel_epsilon, key_maximum
        Of the attention, see :class:`~scfm_hf.nn.performer.PerformerAttention`; ``key_maximum="batch"`` is the
        original's way, by which a cell depends on its neighbours.
    freeze_gene_embeddings
        Keep the gene embeddings, which come from a network of proteins, as they are.
    mask_keys
        Leave padding out of the attention. Without it, as in the original, every cell is padded to
        ``max_position_embeddings`` and padding takes its share of the attention: the released weights want it so.
    max_position_embeddings
        Tokens of a cell, ``<cls>`` and padding included.
    feature_redraw_interval
        Draw other random features every so many forward passes of training (the original: 1,000); None: never.
    attentions_as_original
        Attention probabilities as the original gives them: of the states behind the attention's own residual, padding
        among the keys; beside them, last states that are not zero at padding. Else they are the shares among the real
        tokens, of the states that the layer saw.
    pooling
        ``cls``: state of ``<cls>``, as the paper. ``mean``: over the genes.
    classifier_type
        ``scatter``: one number a gene, at the gene's own place (release v0.1). ``positional``: at the gene's place in
        the cell, so that a column of the classifier means no gene (first release).
    classifier_hidden_sizes, classifier_dropout
        Of the classifier's perceptron.
    class_weights
        Weight of each class in the loss; None: all the same. See
        :func:`~scfm_hf.models.celllm.modeling_celllm.class_weights`.
    atom_feature_size, drug_hidden_size, num_drug_layers
        Of the network over a drug's atoms.
    response_cell_size, response_branch_size, response_hidden_size, response_dropout
        Of the drug-response head: first layer of the cell's branch, end of both branches, layers over both.
    response_type
        ``regression`` (half maximal concentration, mean squared error) or ``classification`` (sensitive or not).
    contrastive_temperature, contrastive_weight, masked_weight, tissue_weight
        Of the pretraining losses; the paper's values are not known here.
    cells_per_chunk
        Cells that pretraining holds in memory at a time with their gradients ("divide and conquer"); None: all.
    """

    model_type = "scfm-celllm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*NOT_PREDICTIONS, "view_embedding", "losses"]
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    vocab_size: int = 19_381
    num_genes: int = 19_379
    num_values: int = 8
    cls_value_id: int = 6
    pad_value_id: int = 7
    mask_value_id: int = 7
    cls_token_id: int | None = None
    pad_token_id: int | None = None
    hidden_size: int = 512
    num_hidden_layers: int = 10
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int = 2048
    hidden_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-5
    num_random_features: int = 266
    kernel_epsilon: float = 1e-4
    key_maximum: Literal["cell", "batch"] = "cell"
    freeze_gene_embeddings: bool = True
    mask_keys: bool = False
    max_position_embeddings: int = 6000
    feature_redraw_interval: int | None = None
    attentions_as_original: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    pooling: str = "cls"
    classifier_type: str = "scatter"
    classifier_hidden_sizes: list[int] = field(default_factory=lambda: [512, 128])
    classifier_dropout: float | int = 0.0
    class_weights: list[float] | None = None
    atom_feature_size: int = 77
    drug_hidden_size: int = 128
    num_drug_layers: int = 3
    response_cell_size: int = 1024
    response_branch_size: int = 256
    response_hidden_size: int = 512
    response_dropout: float | int = 0.2
    response_type: str = "regression"
    contrastive_temperature: float = 0.05
    contrastive_weight: float | int = 1.0
    masked_weight: float | int = 1.0
    tissue_weight: float | int = 1.0
    cells_per_chunk: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.cls_token_id = self.num_genes if self.cls_token_id is None else self.cls_token_id
        self.pad_token_id = self.num_genes + 1 if self.pad_token_id is None else self.pad_token_id
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Raise ValueError if a field has a value that a CellLM cannot have."""
        super().check()
        choices = {
            "classifier_type": ("scatter", "positional"),
            "response_type": ("regression", "classification"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}.")
        if (self.cls_token_id, self.pad_token_id) != (self.num_genes, self.num_genes + 1):
            raise ValueError(
                f"cls_token_id={self.cls_token_id} and pad_token_id={self.pad_token_id} must follow the "
                f"{self.num_genes:,} genes."
            )
        if self.vocab_size < self.num_genes + 2:
            raise ValueError(
                f"vocab_size={self.vocab_size} has no place for {self.num_genes:,} genes, cls and padding."
            )
        for name in ("cls_value_id", "pad_value_id", "mask_value_id"):
            if not 0 <= getattr(self, name) < self.num_values:
                raise ValueError(f"{name}={getattr(self, name)} is none of the {self.num_values} tokens of expression.")
        if self.cells_per_chunk is not None and self.cells_per_chunk < 1:
            raise ValueError(f"cells_per_chunk={self.cells_per_chunk} leaves no cell in a chunk.")
