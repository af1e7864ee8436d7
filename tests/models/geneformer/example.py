"""What Geneformer's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """The multi-task classifier has one label a cell and task."""

    def config_options(self, class_name: str) -> dict[str, Any]:
        return {"task_labels": {"cell_type": 3, "donor": 2}} if "MultiTask" in class_name else {}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "MultiTask" not in class_name:
            return super().labels(class_name, config, inputs)
        cells = torch.arange(len(inputs["input_ids"]))
        return {"labels": torch.stack([cells % n_labels for n_labels in config.task_labels.values()], dim=1)}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        if "MultiTask" not in class_name:
            return {}
        names = "test_eager_matches_sdpa_inference.*|test_retain_grad_hidden_states_attentions"
        return {names: "the test takes logits for one tensor, and here there is one a task"}
