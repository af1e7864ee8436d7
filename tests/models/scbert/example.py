"""What scBERT's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """What is predicted are the values of genes, not the genes."""

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not class_name.endswith("ForMaskedLM"):
            return super().labels(class_name, config, inputs)
        values = inputs["values"]
        wanted = (values > 0) & (torch.arange(values.shape[1]) % 3 == 1)
        return {"labels": values.masked_fill(~wanted, -100), "values": values.masked_fill(wanted, config.mask_value)}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        features = "attention is by random features, which no other implementation has"
        return {
            "test_can_set_attention_dynamically": features,
            "test_eager_matches_sdpa_inference.*": features,
            "test_enable_input_require_grads_with_gradient_checkpointing": "the gene embeddings do not train",
            "test_init_weights_can_init_buffers": "the directions of the features are drawn, each time others",
            "test_retain_grad_hidden_states_attentions": (
                "the probabilities are multiplied out beside the features, which do the work: no gradient reaches them"
            ),
        }
