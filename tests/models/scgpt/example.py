"""What scGPT's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Expression is predicted where it was masked."""

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not class_name.endswith(("ForPreTraining", "ForExpressionPrediction")):
            return super().labels(class_name, config, inputs)
        hidden = inputs["attention_mask"].bool() & (torch.arange(inputs["values"].shape[1]) % 3 == 1)
        return {"values": inputs["values"].masked_fill(hidden, config.mask_value), "labels": inputs["values"]}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        if class_name != "ScGPTForPerturbation":
            return {}
        names = "test_training_gradient_checkpointing.*"
        return {names: "every parameter is to have a gradient, but the original's loss leaves one decoder out"}
