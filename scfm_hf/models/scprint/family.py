"""What scPRINT is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scprint",
    title="scPRINT",
    config_class="ScPrintConfig",
    model_classes={
        "AutoModel": "ScPrintModel",
        "AutoModelForPreTraining": "pretraining_scprint:ScPrintForPreTraining",
        "AutoModelForExpressionPrediction": "pretraining_scprint:ScPrintForPreTraining",
        "AutoModelForSequenceClassification": "ScPrintForSequenceClassification",
    },
    scheme="scprint",
    lora_targets=("qkv", "out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"denoising": "ScPrintForPreTraining", "bottleneck": "ScPrintForPreTraining"},
    values=True,
    species=("human", "mouse"),
    gene_ids="ensembl_id",
    code_licence="GPL-3.0",
    weights_licence="none stated",
    paper=(
        "Kalfon et al., scPRINT: pre-training on 50 million cells allows robust gene network predictions, "
        "Nature Communications 16 (2025)"
    ),
    citation="""@article{kalfon2025scprint,
  title = {scPRINT: pre-training on 50 million cells allows robust gene network predictions},
  author = {Kalfon, J{\\'e}r{\\'e}mie and Samaran, Jules and Peyr{\\'e}, Gabriel and Cantini, Laura},
  journal = {Nature Communications}, volume = {16}, pages = {3607}, year = {2025}
}""",
    code_url="https://github.com/cantinilab/scPRINT",
    weights_url="https://huggingface.co/jkobject/scPRINT",
    tiny={
        "vocab_size": 130,
        "pad_token_id": 129,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.0,
        "value_encoder_layers": 2,
        "class_names": ["cell_type", "sex", "disease"],
        "class_sizes": [4, 2, 3],
        "pooled_classes": ["cell_type", "disease"],
        "label_hierarchy": {"cell_type": {"4": [0, 1]}},
        "class_hidden_sizes": [12],
    },
)
