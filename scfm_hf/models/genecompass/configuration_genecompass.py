"""Configuration of GeneCompass."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

#: Kinds of prior knowledge, in the order in which they are joined.
PRIORS = ("promoter", "co_expression", "gene_family", "regulation")


@strict
class GeneCompassConfig(CellConfig):
    """Sizes and options of a GeneCompass; the defaults are those of GeneCompass_Base.

    Parameters
    ----------
    pooling
        ``cls``: the first position. ``mean``: over the genes.
    use_values
        Expression values enter the embedding.
    use_cls_token
        A learned vector of the species stands before the genes.
    promoter_size, co_expression_size, gene_family_size, regulation_size
        Width of each table of prior knowledge; 0: none.
    num_prior_genes
        Rows of the tables; None: the vocabulary. Genes that a vocabulary gets later have no prior knowledge.
    prior_weight
        Factor of the prior knowledge; the original warms it up from 0 to 1 in pretraining.
    id_weight, value_weight
        Weights of the two losses of the masked model.
    """

    model_type = "scfm-genecompass"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [*NOT_PREDICTIONS, "losses"]
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    vocab_size: int = 50_558
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.02
    attention_probs_dropout_prob: float | int = 0.02
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    mask_token_id: int | None = 1
    # What transformers' BERT layers ask for: an encoder without cross-attention.
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    pooling: str = "cls"
    use_values: bool = True
    use_cls_token: bool = True
    promoter_size: int = 768
    co_expression_size: int = 768
    gene_family_size: int = 768
    regulation_size: int = 768
    num_prior_genes: int | None = None
    prior_weight: float | int = 1.0
    id_weight: float | int = 0.2
    value_weight: float | int = 0.8

    def check(self) -> None:
        """Raise ValueError if a field has a value that a GeneCompass cannot have."""
        super().check()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )

    @property
    def prior_sizes(self) -> dict[str, int]:
        """Width of each table that the model has, in the order in which they are joined."""
        sizes = {name: getattr(self, f"{name}_size") for name in PRIORS}
        return {name: size for name, size in sizes.items() if size}
