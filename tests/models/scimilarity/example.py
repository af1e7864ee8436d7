"""What SCimilarity's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Cells of four labels; the loss compares them with each other."""

    loss_of_the_batch = ("SCimilarityForPreTraining",)

    def config_options(self, class_name: str) -> dict[str, Any]:
        # Cells that are all the same have no spread: with a small epsilon, batch norms would make numbers of rounding.
        options: dict[str, Any] = {"batch_norm_eps": 1.0}
        if class_name == "SCimilarityForPreTraining":
            options |= {"num_labels": 4, "triplet_loss_weight": 0.3}
        return options

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name == "SCimilarityForPreTraining":
            return {"labels": torch.arange(len(inputs["values"])) % config.num_labels}
        return super().labels(class_name, config, inputs)

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        attentions = (
            "test_attention_outputs",
            "test_attn_implementation_composite_models",
            "test_can_set_attention_dynamically",
            "test_eager_matches_sdpa_inference.*",
            "test_multimodal_outputs_are_returned",
            "test_sdpa_can_dispatch_(non_)?composite_models",
            "test_sliding_window_mask",
        )
        return {
            **dict.fromkeys(attentions, "a perceptron has no attention"),
            "test_hidden_states_output": "the states are those of the cells, of the widths of the layers",
        }
