"""What CellLM is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="celllm",
    title="CellLM",
    config_class="CellLMConfig",
    model_classes={
        "AutoModel": "CellLMModel",
        "AutoModelForMaskedLM": "CellLMForMaskedLM",
        "AutoModelForPreTraining": "pretraining_celllm:CellLMForPreTraining",
        "AutoModelForSequenceClassification": "CellLMForSequenceClassification",
    },
    extra_classes=("drugs_celllm:CellLMForDrugResponse",),
    scheme="celllm",
    lora_targets=("self_attn.query", "self_attn.key", "self_attn.value", "self_attn.out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"masked_value": "CellLMForMaskedLM"},
    values=True,
    gene_ids="symbol",
    code_licence="MIT",
    weights_licence="none stated",
    paper=(
        "Zhao et al., Large-Scale Cell Representation Learning via Divide-and-Conquer Contrastive Learning, "
        "arXiv 2306.04371 (2023)"
    ),
    citation="""@article{zhao2023celllm,
  title = {Large-Scale Cell Representation Learning via Divide-and-Conquer Contrastive Learning},
  author = {Zhao, Suyuan and Zhang, Jiahuan and Nie, Zaiqing},
  journal = {arXiv preprint arXiv:2306.04371}, year = {2023}
}""",
    code_url="https://github.com/PharMolix/OpenBioMed",
    weights_url="https://github.com/PharMolix/OpenBioMed#checkpoints",
    tiny={
        "vocab_size": 130,
        "num_genes": 128,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "num_random_features": 16,
        "max_position_embeddings": 80,
        "classifier_hidden_sizes": [16, 8],
        "atom_feature_size": 6,
        "drug_hidden_size": 8,
        "response_cell_size": 16,
        "response_branch_size": 8,
        "response_hidden_size": 8,
        "response_dropout": 0.0,
    },
)
