"""What CellLM's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Drugs for the drug-response model; the contrast between cells has tests of its own."""

    def config_options(self, class_name: str) -> dict[str, Any]:
        # Equal cells in one batch, which the shared tests make, leave a contrast nothing to tell apart.
        return {"contrastive_weight": 0.0} if class_name == "CellLMForPreTraining" else {}

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if class_name != "CellLMForDrugResponse":
            return {}
        # A drug that follows from the cell alone: a chain of atoms, of which some cells have one fewer.
        lengths = 3 + encoded["attention_mask"].sum(1) % 2
        atoms = torch.arange(4)
        features = torch.stack([torch.cos(lengths[:, None] * (atoms + 1.0) * rate) for rate in range(1, 7)], -1)
        ends = torch.stack([atoms[:-1], atoms[1:]], 1)
        bonds = torch.cat([ends, ends.flip(1)]).expand(len(lengths), -1, -1)
        absent = (bonds >= lengths[:, None, None]).any(-1, keepdim=True)
        return {
            "atom_features": features,
            "atom_mask": (atoms < lengths[:, None]).long(),
            "bonds": bonds.masked_fill(absent, -1),
        }

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name == "CellLMForDrugResponse":
            return {"labels": inputs["attention_mask"].sum(1) / 20.0}
        if class_name not in ("CellLMForMaskedLM", "CellLMForPreTraining"):
            return super().labels(class_name, config, inputs)
        wanted = inputs["attention_mask"].bool() & (torch.arange(inputs["values"].shape[1]) % 3 == 1)
        labels = {"labels": inputs["values"].masked_fill(~wanted, -100)}
        if class_name == "CellLMForPreTraining":
            labels["tissues"] = torch.arange(len(wanted)) % 2
        return labels

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        features = "attention is by random features, which no other implementation has"
        reasons = {
            "test_can_set_attention_dynamically": features,
            "test_eager_matches_sdpa_inference.*": features,
            "test_enable_input_require_grads_with_gradient_checkpointing": "the gene embeddings do not train",
            "test_init_weights_can_init_buffers": "the directions of the features are drawn, each time others",
            "test_resize_tokens_embeddings": "it takes away the row of padding, which is a part of every cell",
            "test_retain_grad_hidden_states_attentions": (
                "the probabilities are multiplied out beside the features, which do the work: no gradient reaches them"
            ),
        }
        if class_name in ("CellLMForSequenceClassification", "CellLMForDrugResponse"):
            reasons["test_inputs_embeds"] = "a head with a place for each gene needs to know the genes"
        return reasons
