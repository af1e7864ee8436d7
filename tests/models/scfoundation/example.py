"""What scFoundation's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """Two read depths among the special tokens; a value to be predicted for every gene."""

    @property
    def _special_ids(self) -> dict[str, int]:
        ids = {role: getattr(self._config, f"{role}_token_id") for role in ("target_depth", "source_depth")}
        return {**super()._special_ids, **ids}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name != "ScFoundationForExpressionPrediction":
            return super().labels(class_name, config, inputs)
        return {"labels": expression(config.num_genes, inputs)}

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        unused = "the vectors of masked values and of padding have no gradient where nothing is masked or padded"
        unfit = {"test_training_gradient_checkpointing.*": unused}
        if class_name == "ScFoundationForExpressionPrediction":
            unfit["test_inputs_embeds"] = "the decoder must know which genes the embeddings are of"
            unfit["test_resize_tokens_embeddings"] = "the decoder has a place for each gene: the list cannot shrink"
            unfit["test_init_weights_can_init_buffers"] = "the directions of the random features are drawn anew"
        return unfit


def expression(n_genes: int, inputs: Mapping[str, Tensor]) -> torch.Tensor:
    """Value of every gene, 0 where it is not expressed, (n_cells, n_genes)."""
    ids, values = inputs["input_ids"].clamp(max=n_genes), inputs["values"]
    return values.new_zeros(len(ids), n_genes + 1).scatter(1, ids, values)[:, :n_genes]
