"""What scGPT-spatial is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scgpt_spatial",
    title="scGPT-spatial",
    config_class="ScGPTSpatialConfig",
    model_classes={
        "AutoModel": "ScGPTSpatialModel",
        "AutoModelForPreTraining": "pretraining_scgpt_spatial:ScGPTSpatialForPreTraining",
        "AutoModelForExpressionPrediction": "expression_scgpt_spatial:ScGPTSpatialForExpressionPrediction",
        "AutoModelForSequenceClassification": "ScGPTSpatialForSequenceClassification",
    },
    scheme="scgpt_spatial",
    lora_targets=("self_attn.qkv", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"masked_value": "ScGPTSpatialForExpressionPrediction", "generative": "ScGPTSpatialForPreTraining"},
    values=True,
    spatial=True,
    gene_ids="symbol",
    modalities=("rna", "spatial"),
    code_licence="MIT",
    weights_licence="none stated",
    paper=(
        "Wang et al., scGPT-spatial: Continual Pretraining of Single-Cell Foundation Model for Spatial "
        "Transcriptomics, bioRxiv 2025.02.05.636714 (2025)"
    ),
    citation="""@article{wang2025scgptspatial,
  title = {scGPT-spatial: Continual Pretraining of Single-Cell Foundation Model for Spatial Transcriptomics},
  author = {Wang, Chloe and Cui, Haotian and Zhang, Andrew and Xie, Ronald and Goodarzi, Hani and Wang, Bo},
  journal = {bioRxiv}, year = {2025}, doi = {10.1101/2025.02.05.636714}
}""",
    code_url="https://github.com/bowang-lab/scGPT-spatial",
    weights_url="https://doi.org/10.6084/m9.figshare.28356068",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "generative": False,
        "pad_token_id": 0,
        "cls_token_id": 1,
    },
)
