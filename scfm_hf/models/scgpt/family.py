"""What scGPT is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scgpt",
    title="scGPT",
    config_class="ScGPTConfig",
    model_classes={
        "AutoModel": "ScGPTModel",
        "AutoModelForPreTraining": "pretraining_scgpt:ScGPTForPreTraining",
        "AutoModelForExpressionPrediction": "expression_scgpt:ScGPTForExpressionPrediction",
        "AutoModelForSequenceClassification": "ScGPTForSequenceClassification",
        "AutoModelForPerturbation": "perturbation_scgpt:ScGPTForPerturbation",
    },
    scheme="bin",
    lora_targets=("self_attn.qkv", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    modules_to_save=("batch_norm",),
    own_objectives={"masked_value": "ScGPTForExpressionPrediction", "generative": "ScGPTForPreTraining"},
    values=True,
    gene_ids="symbol",
    modalities=("rna", "atac", "protein"),
    code_licence="MIT",
    weights_licence="MIT",
    paper=(
        "Cui et al., scGPT: toward building a foundation model for single-cell multi-omics using generative AI, Nature "
        "Methods 21 (2024)"
    ),
    citation="""@article{cui2024scgpt,
  title = {scGPT: toward building a foundation model for single-cell multi-omics using generative AI},
  author = {Cui, Haotian and Wang, Chloe and Maan, Hassaan and Pang, Kuan and Luo, Fengning and Duan, Nan and Wang, Bo},
  journal = {Nature Methods}, volume = {21}, pages = {1470--1480}, year = {2024}, doi = {10.1038/s41592-024-02201-0}
}""",
    code_url="https://github.com/bowang-lab/scGPT",
    weights_url="https://github.com/bowang-lab/scGPT#pretrained-scgpt-model-zoo",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
        "cls_token_id": 1,
    },
)
