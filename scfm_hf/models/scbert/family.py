"""What scBERT is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scbert",
    title="scBERT",
    config_class="ScBertConfig",
    model_classes={
        "AutoModel": "ScBertModel",
        "AutoModelForMaskedLM": "ScBertForMaskedLM",
        "AutoModelForPreTraining": "ScBertForMaskedLM",
        "AutoModelForSequenceClassification": "classification_scbert:ScBertForSequenceClassification",
    },
    scheme="scbert",
    lora_targets=("self_attn.query", "self_attn.key", "self_attn.value", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"masked_value": "ScBertForMaskedLM"},
    gene_ids="symbol",
    code_licence="GPL-3.0-only",
    weights_licence="none stated",
    paper=(
        "Yang et al., scBERT as a large-scale pretrained deep language model for cell type annotation of single-cell "
        "RNA-seq data, Nature Machine Intelligence 4 (2022)"
    ),
    citation="""@article{yang2022scbert,
  title = {scBERT as a large-scale pretrained deep language model for cell type annotation of single-cell RNA-seq data},
  author = {Yang, Fan and Wang, Wenchuan and Wang, Fang and Fang, Yuan and Tang, Duyu and Huang, Junzhou and Lu, Hui and
            Yao, Jianhua},
  journal = {Nature Machine Intelligence}, volume = {4}, pages = {852--866}, year = {2022},
  doi = {10.1038/s42256-022-00534-z}
}""",
    code_url="https://github.com/TencentAILabHealthcare/scBERT",
    weights_url="https://github.com/TencentAILabHealthcare/scBERT",
    tiny={
        "vocab_size": 62,
        "num_values": 7,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "num_random_features": 12,
        "cls_token_id": 60,
        "pad_token_id": 61,
        "num_classifier_tokens": 61,
        "classifier_hidden_size": 8,
        "classifier_output_size": 6,
    },
)
