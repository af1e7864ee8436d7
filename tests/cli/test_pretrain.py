"""``scfm pretrain``: the example of the documentation runs, in a process of its own and killed on the way."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tasks.pretraining import config, losses
from transformers import AutoModel

from scfm_hf.tasks.pretraining_config import PretrainingConfig, to_yaml

if TYPE_CHECKING:
    from cli.conftest import Scfm

ROOT = Path(__file__).parents[2]


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "scfm_hf.cli", "pretrain", *map(str, arguments)]


def written(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(values))
    return folder / "config.yaml"


def test_the_example_of_the_documentation_runs(scfm: Scfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    example = PretrainingConfig.read(ROOT / "docs" / "pretrain.yaml").to_dict()
    example["output"] = str(tmp_path / "model")
    example["training"] = {**example["training"], "max_steps": 2, "use_cpu": True}
    example["corpus"]["validation_share"] = 0.03
    done = scfm("pretrain", written(tmp_path, example))
    assert done.exit_code == 0, done.stderr
    assert "Trained to step 2" in done.stdout
    assert AutoModel.from_pretrained(tmp_path / "model").config.hidden_size == 64
    again = scfm("pretrain", tmp_path / "config.yaml")
    assert again.exit_code == 1
    assert "exists and is not empty" in again.stderr


def test_a_mistake_is_a_readable_error(scfm: Scfm, tmp_path: Path) -> None:
    done = scfm("pretrain", written(tmp_path, config(tmp_path, model__famliy="geneformer")))
    assert done.exit_code == 1
    assert "model.famliy: there is no such key. Did you mean family?" in done.stderr
    assert scfm("pretrain", tmp_path / "nothing.yaml").exit_code == 1


def last_step(run: Path) -> int:
    """Step of the last checkpoint of a run, 0 before the first."""
    return max((int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")), default=0)


@pytest.mark.full
def test_killed_from_outside_again_and_again_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """A process of its own, killed some moment after each fourth step, as a scheduler would."""
    # An evaluation draws a random number, so both runs evaluate after every step.
    whole = written(tmp_path / "whole", config(tmp_path / "whole", training__save_steps=1))
    assert subprocess.run(command(whole)).returncode == 0
    path = written(tmp_path / "killed", config(tmp_path / "killed", training__save_steps=1))
    run, kills = tmp_path / "killed" / "model-run", 0
    while True:
        process, begun = subprocess.Popen(command(path, "--resume")), last_step(run)
        while process.poll() is None and last_step(run) < begun + 4:
            time.sleep(0.01)
        time.sleep(random.random() / 10)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 3
    trained = [[entry for entry in losses(folder) if "loss" in entry] for folder in (whole.parent, path.parent)]
    assert trained[0] == trained[1]


@pytest.mark.full
def test_under_torchrun_two_ranks_train_one_model(tmp_path: Path) -> None:
    path = written(tmp_path, config(tmp_path, training__per_device_train_batch_size=4))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.time()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "scfm_hf.cli", "pretrain"]
    done = subprocess.run([*launch, str(path)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = [entry for entry in losses(tmp_path) if "loss" in entry]
    assert logged[-1]["epoch"] == 3.0, f"{time.time() - started:.0f} s"
    assert (tmp_path / "model" / "README.md").is_file()
    assert yaml.safe_load((tmp_path / "model" / "pretraining.yaml").read_text())["seed"] == 0
