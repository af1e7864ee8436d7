"""What CellPLM's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    from torch import Tensor


class Example(FamilyExample):
    """Each cell is a set of its own, and nothing is drawn; sets and draws have tests of their own."""

    def config_options(self, class_name: str) -> dict[str, Any]:
        return {"objective": "imputation"} if class_name == "CellPLMForExpressionPrediction" else {}

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if class_name not in ("CellPLMForPreTraining", "CellPLMForExpressionPrediction"):
            return {}
        return {"batch_index": encoded["attention_mask"].sum(1) % 2}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        flow = "cells, not genes, see each other, by Flowformer's flow: there are no attention probabilities"
        cells = "the states are those of the cells, (n_cells, hidden_size), and have no axis of genes"
        attentions = (
            "test_attention_outputs",
            "test_attn_implementation_composite_models",
            "test_eager_matches_sdpa_inference.*",
            "test_multimodal_outputs_are_returned",
            "test_sdpa_can_dispatch_(non_)?composite_models",
            "test_sliding_window_mask",
        )
        return {**dict.fromkeys(attentions, flow), "test_hidden_states_output": cells}
