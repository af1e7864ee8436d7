"""What scPRINT's classes need beside the specification."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from models.examples import FamilyExample

from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Cells of different length: genes that they do not express are left out."""

    #: It compares the tokens of all cells of the batch at once.
    loss_of_the_batch = ("ScPrintForPreTraining",)

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        taxa = np.full(len(self.vocabulary), 9606.0)
        taxa[self._config.pad_token_id] = np.nan
        return CellTokenizer.from_vocabulary(
            self.vocabulary, scheme=self.spec.scheme, statistics={"taxon": taxa}, max_length=64, fill=False
        )

    def config_options(self, class_name: str) -> dict[str, Any]:
        # The similarity of cells depends on how many there are.
        return {"similarity_weight": 0.0}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name != "ScPrintForPreTraining":
            return super().labels(class_name, config, inputs)
        rows = torch.arange(len(inputs["values"]))
        class_ids = torch.stack([rows % 5, rows % 2, rows % 4 - 1], 1)
        return {"labels": inputs["values"].clone(), "class_ids": class_ids}

    def unfit_for_mixin(self, class_name: str) -> dict[str, Any]:
        tables = "gene vectors are frozen tables beside the weights, without parameters"
        tokens = "attention goes over the tokens of the cell and its genes, of which input_ids has the genes alone"
        return {
            "test_resize_.*": tables,
            "test_model_get_set_embeddings": tables,
            "test_enable_input_require_grads_with_gradient_checkpointing": tables,
            "test_attention_outputs": tokens,
        }
