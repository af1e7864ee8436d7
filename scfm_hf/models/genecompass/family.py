"""What GeneCompass is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="genecompass",
    title="GeneCompass",
    config_class="GeneCompassConfig",
    model_classes={
        "AutoModel": "GeneCompassModel",
        "AutoModelForMaskedLM": "GeneCompassForMaskedLM",
        "AutoModelForPreTraining": "GeneCompassForMaskedLM",
        "AutoModelForSequenceClassification": "GeneCompassForSequenceClassification",
        "AutoModelForTokenClassification": "GeneCompassForTokenClassification",
    },
    scheme="genecompass",
    lora_targets=("query", "key", "value"),
    lora_feedforward=("intermediate.dense", "output.dense"),
    own_objectives={"masked_gene": "GeneCompassForMaskedLM"},
    values=True,
    species=("human", "mouse"),
    gene_ids="ensembl_id",
    code_licence="none stated",
    weights_licence="none stated",
    paper=(
        "Yang et al., GeneCompass: deciphering universal gene regulatory mechanisms with a knowledge-informed "
        "cross-species foundation model, Cell Research 34 (2024)"
    ),
    citation="""@article{yang2024genecompass,
  title = {GeneCompass: deciphering universal gene regulatory mechanisms with a knowledge-informed cross-species
           foundation model},
  author = {Yang, Xiaodong and Liu, Guole and Feng, Guihai and others},
  journal = {Cell Research}, volume = {34}, pages = {830--845}, year = {2024}, doi = {10.1038/s41422-024-01034-y}
}""",
    code_url="https://github.com/xCompass-AI/GeneCompass",
    weights_url="https://www.scidb.cn/anonymous/SUZOdk1y",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "promoter_size": 6,
        "co_expression_size": 4,
        "gene_family_size": 5,
        "regulation_size": 3,
    },
)
