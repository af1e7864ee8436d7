"""scPRINT's encoder and heads give the original's numbers, whatever the version of the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from scfm_hf.conversion import SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.models.scprint.conversion_scprint import RULES, config_of, is_scprint
from scfm_hf.models.scprint.pretraining_scprint import ScPrintForPreTraining

if TYPE_CHECKING:
    from pathlib import Path

SAME = {"logits.mean": "mean", "logits.disp": "dispersion", "logits.zero_logits": "zero_logits",
        "mvc_mean": "cell_mean", "mvc_disp": "cell_dispersion", "mvc_zero_logits": "cell_zero_logits",
        "cell_embs": "cell_states"}  # fmt: skip


@pytest.fixture
def originals(golden_dir: Path) -> Path:
    """Checkpoints and numbers of the original."""
    if not (golden_dir / "scprint").is_dir():
        pytest.skip("The checkpoints of scPRINT are not beside this clone; its tests have no smaller copy of them.")
    return golden_dir / "scprint"


def _load(folder: Path) -> ScPrintForPreTraining:
    source = SourceFolder(folder / "checkpoint")
    weights = source.weights("*.ckpt")
    checkpoint = source.checkpoint(weights)
    assert is_scprint(checkpoint)
    tensors, _ = apply_rules(checkpoint["state_dict"], RULES, where=weights.name)
    model = ScPrintForPreTraining(config_of(tensors, checkpoint["hyper_parameters"]))
    model.load_state_dict(tensors)
    return model.eval()


@pytest.mark.parametrize("variant", ["v1_log", "v1_sum_mouse", "v238_log_gqa"])
def test_all_heads_agree_with_the_original(originals: Path, variant: str) -> None:
    model, expected = (
        _load(originals / variant),
        load_file(originals / variant / "expected.safetensors"),
    )
    ids, values = expected["input_ids"].long(), expected["values"]
    with torch.no_grad():
        found = model(ids, values, depth=expected["depth"], labels=values)
        generated = model(ids, cell_states=found.cell_states, total=values.sum(1))
    same = {theirs: getattr(found, ours) for theirs, ours in SAME.items()}
    same |= {f"cls_output_{name}": logits for name, logits in found.class_logits.items()}
    same |= {"generate.mean": generated.mean, "loss.plain_expr": found.loss}
    for name, array in same.items():
        torch.testing.assert_close(array, expected[name].reshape(array.shape), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("variant", ["v238_fsq_metacell", "v238_cell_blocks"])
def test_options_that_are_not_supported_are_refused(originals: Path, variant: str) -> None:
    source = SourceFolder(originals / variant / "checkpoint")
    published = source.checkpoint(source.weights("*.ckpt"))["hyper_parameters"]
    with pytest.raises(CheckpointError, match="not supported"):
        config_of({}, published)
