"""Small runs of CellTrainer for its tests: in a process of their own, so that they can be killed."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainingArguments

from scfm_hf.training.trainer import CellTrainer

if TYPE_CHECKING:
    from pathlib import Path


class TinyModel(torch.nn.Module):
    """Numbers -> dropout -> classes, with two losses: dropout shows whether random numbers go on as they would have."""

    def __init__(self, n_inputs: int = 4) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(n_inputs, 3))

    def forward(self, numbers: torch.Tensor, labels: torch.Tensor, **_: torch.Tensor) -> dict[str, Any]:
        logits = self.layers(numbers)
        losses = {"class": torch.nn.functional.cross_entropy(logits, labels), "size": 0.1 * (logits**2).mean()}
        return {"loss": losses["class"] + losses["size"], "logits": logits, "losses": losses}


def cells(n: int = 72, n_inputs: int = 4) -> list[dict[str, Any]]:
    """A map-style data set."""
    drawn = torch.Generator().manual_seed(7)
    numbers = torch.randn(n, n_inputs, generator=drawn)
    return [{"numbers": row.tolist(), "labels": place % 3, "place": place} for place, row in enumerate(numbers)]


class Journal(TrainerCallback):
    """Writes the loss of every step to a file at once, and kills the process at the beginning of one."""

    def __init__(self, path: Path, kill_at: int | None = None) -> None:
        self.path, self.kill_at = path, kill_at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            with self.path.open("a") as file:
                file.write(f"{state.global_step} {logs['loss'].hex()} {logs['epoch']:.4f}\n")


class StopAt(TrainerCallback):
    """Ends a run after a step, as if it were all of it, but with the learning rates of the whole."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def trainer(
    output: Path, *, model: Any = None, data: Any = None, held_out: Any = None, callbacks: Any = (), **changes: Any
) -> CellTrainer:
    """Three epochs of twelve steps, a checkpoint every five."""
    options: dict[str, Any] = {
        "per_device_train_batch_size": 6,
        "num_train_epochs": 3,
        "save_steps": 5,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
    }
    torch.manual_seed(0)
    data = cells() if data is None else data
    arguments = TrainingArguments(str(output), **options | changes)
    model = TinyModel() if model is None else model
    return CellTrainer(model, arguments, train_dataset=data, eval_dataset=held_out, callbacks=[*callbacks])


def run(output: Path, journal: Path, *, kill_at: int | None = None, make: Any = trainer, **changes: Any) -> None:
    """Train, or go on from the last whole checkpoint."""
    made = make(output, callbacks=[Journal(journal, kill_at)], **changes)
    made.train(resume_from_checkpoint=any(output.glob("checkpoint-*")) or None)


def losses(trained: CellTrainer) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def state_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text())
