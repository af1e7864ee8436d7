"""What scGPT's classes need beside the specification."""

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
    """Expression is predicted where it was masked; the pretraining class has every head that goes with others."""

    def config_options(self, class_name: str) -> dict[str, Any]:
        if class_name == "ScGPTForPerturbation":
            return {"num_perturbation_flags": 3, "decoder_style": "affine", "normalize_embedding": False}
        if class_name != "ScGPTForPreTraining":
            return {}
        heads = {"explicit_zero_probability": True, "pretraining_classifier": True, "num_adversarial_labels": 2}
        return {**heads, "num_batch_labels": 2}

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if class_name == "ScGPTForPerturbation":
            return {"perturbation_flags": (encoded["input_ids"] % 7 == 3).long()}
        if class_name != "ScGPTForPreTraining":
            return {}
        return {"batch_index": encoded["attention_mask"].sum(1) % 2}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not class_name.endswith(("ForPreTraining", "ForExpressionPrediction")):
            return super().labels(class_name, config, inputs)
        hidden = inputs["attention_mask"].bool() & (torch.arange(inputs["values"].shape[1]) % 3 == 1)
        wanted = {"values": inputs["values"].masked_fill(hidden, config.mask_value), "labels": inputs["values"]}
        if class_name.endswith("ForPreTraining"):
            wanted["class_index"] = torch.arange(len(hidden)) % config.num_labels
        return wanted

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        if class_name != "ScGPTForPerturbation":
            return {}
        names = "test_training_gradient_checkpointing.*"
        return {names: "every parameter is to have a gradient, but the original's loss leaves one decoder out"}
