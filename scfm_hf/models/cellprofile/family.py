"""What CellProfile is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="cellprofile",
    title="CellProfile",
    config_class="CellProfileConfig",
    model_classes={
        "AutoModel": "CellProfileModel",
        "AutoModelForPreTraining": "pretraining_cellprofile:CellProfileForPreTraining",
        "AutoModelForSequenceClassification": "CellProfileForSequenceClassification",
    },
    scheme="cellprofile",
    lora_targets=("dense",),
    lora_feedforward=("dense",),
    attentions=False,
    gene_states=False,
    has_original=False,
    species=("human",),
    gene_ids="ensembl_id",
    code_licence="Apache-2.0",
    weights_licence="CC-BY-4.0",
    paper="No paper: pretrained by this library (scripts/cellprofile)",
    citation="""@software{scfm_hf,
  title = {scfm_hf: single-cell foundation models as Hugging Face models},
  year = {2026}
}""",
    code_url="https://github.com/scfm-hf/scfm_hf",
    weights_url="in this package",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "output_size": 12,
        "factor_size": 8,
        "sketch_size": 10,
        "hidden_dropout_prob": 0.0,
    },
)
