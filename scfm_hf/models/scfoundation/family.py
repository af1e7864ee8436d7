"""What scFoundation is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scfoundation",
    title="scFoundation",
    config_class="ScFoundationConfig",
    model_classes={
        "AutoModel": "ScFoundationModel",
        "AutoModelForPreTraining": "expression_scfoundation:ScFoundationForExpressionPrediction",
        "AutoModelForExpressionPrediction": "expression_scfoundation:ScFoundationForExpressionPrediction",
        "AutoModelForSequenceClassification": "ScFoundationForSequenceClassification",
    },
    scheme="scfoundation",
    lora_targets=("self_attn.qkv", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"read_depth": "ScFoundationForExpressionPrediction"},
    values=True,
    gene_ids="symbol",
    code_licence="Apache-2.0",
    weights_licence="scFoundation License (non-commercial)",
    paper=(
        "Hao et al., Large-scale foundation model on single-cell transcriptomics, Nature Methods 21 (2024); "
        "architecture: Gong et al., xTrimoGene, NeurIPS (2023)"
    ),
    citation="""@article{hao2024scfoundation,
  title = {Large-scale foundation model on single-cell transcriptomics},
  author = {Hao, Minsheng and Gong, Jing and Zeng, Xin and Liu, Chiming and Guo, Yucheng and Cheng, Xingyi and
    Wang, Taifeng and Ma, Jianzhu and Zhang, Xuegong and Song, Le},
  journal = {Nature Methods}, volume = {21}, pages = {1481--1491}, year = {2024}, doi = {10.1038/s41592-024-02305-7}
}""",
    code_url="https://github.com/biomap-research/scFoundation",
    weights_url="https://github.com/biomap-research/scFoundation/tree/main/model",
    tiny={
        "vocab_size": 63,
        "target_depth_token_id": 60,
        "source_depth_token_id": 61,
        "pad_token_id": 62,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_bins": 10,
        "decoder_hidden_size": 32,
        "decoder_num_layers": 2,
        "decoder_num_heads": 2,
        "decoder_head_size": 8,
        "decoder_intermediate_size": 32,
        "classifier_hidden_size": 8,
    },
)
