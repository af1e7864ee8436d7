"""What CellPLM is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="cellplm",
    title="CellPLM",
    config_class="CellPLMConfig",
    model_classes={
        "AutoModel": "CellPLMModel",
        "AutoModelForPreTraining": "expression_cellplm:CellPLMForPreTraining",
        "AutoModelForExpressionPrediction": "expression_cellplm:CellPLMForExpressionPrediction",
        "AutoModelForSequenceClassification": "CellPLMForSequenceClassification",
        "AutoModelForPerturbation": "expression_cellplm:CellPLMForPerturbation",
    },
    scheme="cellplm",
    lora_targets=("self_attn.query", "self_attn.key", "self_attn.value", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    attentions=False,
    values=True,
    gene_states=False,
    spatial=True,
    gene_ids="ensembl_id",
    code_licence="BSD-2-Clause",
    weights_licence="none stated",
    paper=(
        "Wen et al., CellPLM: Pre-training of Cell Language Model Beyond Single Cells, International Conference on "
        "Learning Representations (2024)"
    ),
    citation="""@inproceedings{wen2024cellplm,
  title = {CellPLM: Pre-training of Cell Language Model Beyond Single Cells},
  author = {Wen, Hongzhi and Tang, Wenzhuo and Dai, Xinnan and Ding, Jiayuan and Jin, Wei and Xie, Yuying and
    Tang, Jiliang},
  booktitle = {International Conference on Learning Representations}, year = {2024},
  doi = {10.1101/2023.10.03.560734}
}""",
    code_url="https://github.com/OmicsML/CellPLM",
    weights_url="https://github.com/OmicsML/CellPLM#pretrained-cellplm-model-checkpoints",
    tiny={
        "vocab_size": 120,
        "num_genes": 119,
        "pad_token_id": 119,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "latent_type": "ae",
        "latent_size": 12,
        "latent_hidden_size": 20,
        "num_clusters": 3,
        "decoder_hidden_size": 12,
        "num_batches": 2,
        "num_datasets": 0,
        "mask_cell_rate": 0.0,
        "position_type": None,
        "classifier_hidden_size": 12,
    },
)
