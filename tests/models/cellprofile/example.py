"""What CellProfile's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Pretraining is shown its reconstruction alone: what it compares among cells has tests of its own."""

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name != "CellProfileForPreTraining":
            return super().labels(class_name, config, inputs)
        ids, values = inputs["input_ids"], inputs["values"]
        whole = torch.zeros(len(ids), config.vocab_size).scatter_add_(1, ids, values)
        return {"labels": torch.full((len(ids),), -100), "whole_values": whole}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        attention = "a profile is summed: there is no attention"
        cells = "the states are those of the cells, (n_cells, hidden_size), and have no axis of genes"
        return {
            "test_attention_outputs": attention,
            "test_attn_implementation_composite_models": attention,
            "test_eager_matches_sdpa_inference.*": attention,
            "test_sdpa_can_dispatch_(non_)?composite_models": attention,
            "test_sliding_window_mask": attention,
            "test_multimodal_outputs_are_returned": attention,
            "test_hidden_states_output": cells,
        }
