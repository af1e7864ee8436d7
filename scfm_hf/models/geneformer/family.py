"""What Geneformer is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="geneformer",
    title="Geneformer",
    config_class="GeneformerConfig",
    model_classes={
        "AutoModel": "GeneformerModel",
        "AutoModelForMaskedLM": "GeneformerForMaskedLM",
        "AutoModelForPreTraining": "GeneformerForMaskedLM",
        "AutoModelForSequenceClassification": (
            "GeneformerForSequenceClassification",
            "multitask_geneformer:GeneformerForMultiTaskClassification",
        ),
        "AutoModelForTokenClassification": "GeneformerForTokenClassification",
    },
    scheme="rank",
    lora_targets=("query", "value"),
    lora_feedforward=("intermediate.dense", "output.dense"),
    own_objectives={"masked_gene": "GeneformerForMaskedLM"},
    gene_ids="ensembl_id",
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    paper=(
        "Theodoris et al., Transfer learning enables predictions in network biology, Nature 618 (2023); V2: "
        "Chen et al., Quantized multi-task learning for context-specific representations of gene network dynamics, "
        "bioRxiv 2024.08.16.608180"
    ),
    citation="""@article{theodoris2023geneformer,
  title = {Transfer learning enables predictions in network biology},
  author = {Theodoris, Christina V. and Xiao, Ling and Chopra, Anant and Chaffin, Mark D. and Al Sayed, Zeina R. and
            Hill, Matthew C. and Mantineo, Helene and Brydon, Elizabeth M. and Zeng, Zexian and Liu, X. Shirley and
            Ellinor, Patrick T.},
  journal = {Nature}, volume = {618}, pages = {616--624}, year = {2023}, doi = {10.1038/s41586-023-06139-9}
}""",
    code_url="https://huggingface.co/ctheodoris/Geneformer",
    weights_url="https://huggingface.co/ctheodoris/Geneformer",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
)
