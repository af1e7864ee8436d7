from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="toy",
    title="Toy",
    config_class="ToyConfig",
    model_classes={"AutoModel": "ToyModel", "AutoModelForSequenceClassification": "ToyForSequenceClassification"},
    scheme="rank",
    lora_targets=("dense",),
    attentions=False,
    gene_ids="symbol",
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0",
    paper="none",
    citation="none",
    code_url="none",
    weights_url="none",
    tiny={"vocab_size": 80, "hidden_size": 8},
)
