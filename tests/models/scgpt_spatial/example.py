"""What scGPT-spatial's classes need beside the specification."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from models.examples import FamilyExample

from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Every gene has its mean. Cells have neighbours, two to a slide, in training alone: there they are compared."""

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        means = np.random.default_rng(1).uniform(0.5, 3, len(self.vocabulary))
        return CellTokenizer.from_vocabulary(
            self.vocabulary, scheme=self.spec.scheme, statistics={"gene_mean": means}, max_length=1200
        )

    def config_options(self, class_name: str) -> dict[str, Any]:
        if class_name != "ScGPTSpatialForPreTraining":
            return {}
        return {"pretraining_classifier": True, "num_adversarial_labels": 2, "num_batch_labels": 2}

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {"batch_index": encoded["attention_mask"].sum(1) % 2} if class_name.endswith("ForPreTraining") else {}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not class_name.endswith(("ForPreTraining", "ForExpressionPrediction")):
            return super().labels(class_name, config, inputs)
        hidden = inputs["attention_mask"].bool() & (torch.arange(inputs["values"].shape[1]) % 3 == 1)
        wanted = {"values": inputs["values"].masked_fill(hidden, config.mask_value), "labels": inputs["values"]}
        rows = torch.arange(len(hidden))
        wanted |= {"coordinates": torch.stack([rows, rows % 3], 1).float(), "slide_index": rows // 2}
        if class_name.endswith("ForPreTraining"):
            wanted["class_index"] = rows % config.num_labels
        return wanted
