"""Which public call gives which array of scGPT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from parity.families.scgpt.models import (
    attentions,
    cell_embedding,
    class_logits,
    class_loss,
    contrastive_loss,
    drawn,
    field,
    gene_embedding,
    generated,
    hidden_states,
    loss,
    of_perturbation,
    predicted_response,
    predictions,
    relative_error,
    response,
    similarity_loss,
    three_losses,
)
from parity.families.scgpt.tokens import binned_genes, log_normalised, modality_ids, perturbation_ids, tokens
from parity.families.scgpt.training import (
    adversarial_gradient,
    gradient,
    mvc_gradient,
    running_statistics,
    trained_tensor,
    validation_loss,
)
from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from parity.golden import Golden


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The checkpoint, or the smallest model around the vocabulary where only the tokenizer is stored."""
    assert golden.checkpoint is not None
    if (golden.checkpoint / "args.json").exists():
        return {"source": golden.checkpoint, **({"weights": golden.weights[weights]} if weights is not None else {})}
    scratch.mkdir()
    vocabulary = json.loads((golden.checkpoint / "vocab.json").read_text(encoding="utf-8"))
    (scratch / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (scratch / "args.json").write_text(json.dumps({"embsize": 2, "nheads": 1, "d_hid": 2, "nlayers": 1}))
    layer = "transformer_encoder.layers.0."
    square = ("value_encoder.linear2", f"{layer}self_attn.out_proj", f"{layer}linear1", f"{layer}linear2")
    norms = ("encoder.enc_norm", "value_encoder.norm", f"{layer}norm1", f"{layer}norm2")
    shapes = {
        "encoder.embedding.weight": (len(vocabulary), 2),
        "value_encoder.linear1.weight": (2, 1),
        "value_encoder.linear1.bias": (2,),
        f"{layer}self_attn.in_proj_weight": (6, 2),
        f"{layer}self_attn.in_proj_bias": (6,),
        **{f"{name}.weight": (2, 2) for name in square},
        **{f"{name}.weight": (2,) for name in norms},
        **{f"{name}.bias": (2,) for name in (*square, *norms)},
    }
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, scratch / "best_model.pt")
    return {"source": scratch}


FROM_CELL = "expression from the cell embedding"
NETWORK = "gene networks belong to the tasks"
MAPPING = "mapping to a reference belongs to the tasks"

TABLE = RuleTable(
    family="scgpt",
    inputs=("input_ids", "values", "attention_mask"),
    renames={
        "batch_labels": "batch_index",
        "gen_input_ids": "generated_ids",
        "gen_attention_mask": "generated_mask",
        "input_cell_emb": "cell_prompt",
        "pert_flags": "perturbation_flags",
        "gene_ids": "input_ids",
    },
    conversion=conversion,
    rules=(
        Rule("grad.dab_at_cell_embedding", adversarial_gradient, section="gradients"),
        Rule("grad.*", gradient, section="gradients"),
        Rule("*.grad.*", mvc_gradient, section="gradients"),
        Rule("train.*.bns.*", running_statistics, section="running statistics"),
        Rule("trained.*", trained_tensor, section="trained weights"),
        Rule("generate.*", generated, section="generated expression"),
        Rule(("*input_ids", "*attention_mask", "*values"), tokens, section="tokens"),
        Rule("token_type_ids", modality_ids, section="tokens"),
        Rule("gene_ids", perturbation_ids, section="tokens"),
        Rule("log1p", log_normalised, section="tokens"),
        Rule("binned", binned_genes, section="tokens"),
        Rule("*hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("attentions.{layer}", attentions, section="attention"),
        Rule("gene_embedding", gene_embedding, section="gene embedding"),
        Rule("*cell_embedding*", cell_embedding, section="cell embedding"),
        Rule("*predictions", predicted_response, section="perturbation", when=of_perturbation),
        Rule("adaptive.sampled_logits", response("predicted_values", draw_zeros=True), section="perturbation"),
        Rule("*mvc_logits", response("cell_predicted_values"), section="perturbation", when=of_perturbation),
        Rule("*logits_classification", response("logits"), section="perturbation", when=of_perturbation),
        Rule("*logits", response("predicted_values"), section="perturbation", when=of_perturbation),
        Rule("*zero_probs", response("expressed_probability"), section="perturbation", when=of_perturbation),
        Rule("train.loss", response("loss"), section="perturbation", when=of_perturbation),
        Rule("sampled.mvc_logits", drawn("cell_predicted_values"), section=FROM_CELL),
        Rule("sampled.logits", drawn("predicted_values"), section="expression"),
        Rule("perceptual*.mvc_logits", field("cell_predicted_values"), section=FROM_CELL, real_tokens=True),
        # The two classes of the original give other values at padding.
        Rule("perceptual*.logits", field("predicted_values"), section="expression", real_tokens=True),
        Rule("*mvc_logits", field("cell_predicted_values"), section=FROM_CELL),
        Rule("*mvc_zero_probs", field("cell_expressed_probability"), section=FROM_CELL),
        Rule("*loss_mvc", loss("cell_expression"), section=FROM_CELL),
        Rule("*loss_mvc_zero", loss("cell_expression_zero"), section=FROM_CELL),
        Rule("*zero_probs", field("expressed_probability"), section="expression"),
        Rule("*loss_gep", loss("expression"), section="expression"),
        Rule("*loss_gep_zero", loss("expression_zero"), section="expression"),
        Rule("*metric_mre", relative_error, section="expression"),
        Rule("valid.loss", validation_loss, section="expression"),
        Rule("*gen_logits", field("generated_values"), section="generated expression"),
        Rule("loss_gen", loss("expression"), section="generated expression"),
        Rule("loss", three_losses, section="total loss"),
        Rule("loss_prompted", loss("expression"), section="generated expression"),
        Rule("*logits_classification", class_logits, section="classifier"),
        Rule("predictions", predictions, section="classifier"),
        Rule("train.loss_cls", loss("class"), section="classifier"),
        Rule("loss_cls", class_loss, section="classifier"),
        Rule("*dab_logits", field("batch_logits"), section="adversarial batches"),
        Rule("*loss_dab", loss("batch"), section="adversarial batches"),
        Rule("*loss_ecs", similarity_loss, section="cell similarity"),
        Rule("loss_cce", contrastive_loss, section="contrast"),
        Rule("*loss", field("loss"), section="total loss"),
        Rule("*logits", field("predicted_values"), section="expression"),
    ),
    left_out={
        "reference.*": MAPPING,
        "*similarity": NETWORK,
        "network_edges.*": NETWORK,
        "mean_vector": NETWORK,
        "metagene_scores": NETWORK,
        "attention_rank.*": NETWORK,
        "attention_row_rank": NETWORK,
        "stable.*": NETWORK,
        "condition_mean.*": NETWORK,
        "top_scores.*": NETWORK,
    },
)
