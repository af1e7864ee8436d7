"""What Nicheformer is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="nicheformer",
    title="Nicheformer",
    config_class="NicheformerConfig",
    model_classes={
        "AutoModel": "NicheformerModel",
        "AutoModelForMaskedLM": "NicheformerForMaskedLM",
        "AutoModelForPreTraining": "NicheformerForMaskedLM",
        "AutoModelForSequenceClassification": "niches_nicheformer:NicheformerForSequenceClassification",
    },
    scheme="nicheformer",
    lora_targets=("query", "key", "value"),
    lora_feedforward=("intermediate.dense", "output.dense"),
    own_objectives={"masked_gene": "NicheformerForMaskedLM"},
    species=("human", "mouse"),
    modalities=("rna", "spatial"),
    gene_ids="ensembl_id",
    code_licence="BSD-3-Clause",
    weights_licence="MIT",
    paper=(
        "Tejada-Lapuerta, Schaar et al., Nicheformer: a foundation model for single-cell and spatial omics, "
        "Nature Methods 22 (2025)"
    ),
    citation="""@article{tejadalapuerta2025nicheformer,
  title = {Nicheformer: a foundation model for single-cell and spatial omics},
  author = {Tejada-Lapuerta, Alejandro and Schaar, Anna C. and others},
  journal = {Nature Methods}, volume = {22}, pages = {2525}, year = {2025}
}""",
    code_url="https://github.com/theislab/nicheformer",
    weights_url="https://huggingface.co/theislab/Nicheformer",
    tiny={
        "vocab_size": 130,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
)
