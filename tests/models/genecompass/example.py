"""What GeneCompass's classes need beside the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.examples import FamilyExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig


class Example(FamilyExample):
    """The masked model predicts values beside genes; the states begin with the species' position."""

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted = super().labels(class_name, config, inputs)
        return {**wanted, "target_values": inputs["values"]} if class_name.endswith("ForMaskedLM") else wanted

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        longer = "the states begin with the species' position, one more than there are tokens"
        names = ("test_attention_outputs", "test_hidden_states_output")
        unfit = dict.fromkeys(names, longer)
        unfit["test_training_gradient_checkpointing.*"] = (
            "the test gives no target values, so their head has no gradient"
        )
        return unfit if class_name.endswith("ForMaskedLM") else dict.fromkeys(names, longer)
