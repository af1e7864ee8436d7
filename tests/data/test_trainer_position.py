"""A run of the stock Trainer that is killed goes on with the same cells and the same losses, bit for bit."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from processes import in_a_process
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.trainer_position import StreamPosition
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

N_CLASSES, STEPS = 9, 3 * 12  # three epochs of 72 cells in batches of 6


class TinyClassifier(torch.nn.Module):
    """Counts -> dropout -> classes: dropout shows whether random numbers go on as they would have."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(n_genes, N_CLASSES))

    def forward(self, counts: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(counts)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Journal(TrainerCallback):
    """Writes the loss and cells of every step to a file at once, and kills the process at one of them."""

    def __init__(self, path: Path, kill_at: int | None) -> None:
        self.path, self.kill_at, self.cells = path, kill_at, []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            with self.path.open("a") as file:
                file.write(f"{state.global_step} {logs['loss'].hex()} {logs['epoch']:.4f}\n")


def train(corpus: Path, output: Path, journal: Path, kill_at: int | None = None, **changes: Any) -> None:
    """Train, or go on from the last checkpoint."""
    torch.manual_seed(0)
    stream = load_corpus(
        corpus, labels="cell_type", columns=["cell"], block_size=4, window_size=24, batch_size=6, seed=5
    )

    def collate(cells: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        counts = torch.zeros(len(cells), len(stream.vocabulary))
        for row, cell in enumerate(cells):
            counts[row, torch.from_numpy(cell["gene_ids"]).long()] = torch.from_numpy(np.log1p(cell["counts"]))
        with journal.with_suffix(".cells").open("a") as file:
            file.write(" ".join(str(cell["cell"]) for cell in cells) + "\n")
        return {"counts": counts, "labels": torch.tensor([cell["labels"] for cell in cells])}

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
    trainer = Trainer(
        TinyClassifier(len(stream.vocabulary)),
        TrainingArguments(str(output), **options | changes),
        train_dataset=stream,
        data_collator=collate,
        callbacks=[StreamPosition(), Journal(journal, kill_at)],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)) if output.exists() else None)


@pytest.fixture(scope="module")
def uninterrupted(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert in_a_process(train, corpus_folder, folder / "run", folder / "journal") == 0
    return folder / "journal"


def check_killed_run(corpus: Path, folder: Path, uninterrupted: Path, kill_at: int, workers: int = 0) -> None:
    journal = folder / "journal"
    options = {"dataloader_num_workers": workers}
    assert in_a_process(train, corpus, folder / "run", journal, kill_at=kill_at, **options) == -signal.SIGKILL
    journal.unlink(missing_ok=True)
    journal.with_suffix(".cells").unlink()
    assert in_a_process(train, corpus, folder / "run", journal, **options) == 0
    expected, found = (path.read_text().splitlines() for path in (uninterrupted, journal))
    resumed = kill_at // 5 * 5
    assert found == expected[resumed:]
    if workers:  # which write into one file at once
        return
    whole, rest = (path.with_suffix(".cells").read_text().splitlines() for path in (uninterrupted, journal))
    assert rest == whole[resumed:]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [7, 12, 31])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    corpus_folder: Path, tmp_path: Path, uninterrupted: Path, kill_at: int
) -> None:
    """In the first epoch, at the end of it, and in the third."""
    check_killed_run(corpus_folder, tmp_path, uninterrupted, kill_at)


@pytest.mark.slow
def test_a_killed_run_with_workers_goes_on_as_one_without(
    corpus_folder: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    check_killed_run(corpus_folder, tmp_path, uninterrupted, kill_at=18, workers=2)


@pytest.mark.full
def test_a_run_killed_at_any_of_fifty_steps_goes_on(corpus_folder: Path, tmp_path: Path, uninterrupted: Path) -> None:
    for number, kill_at in enumerate(np.random.default_rng().integers(5, STEPS, 50).tolist()):
        check_killed_run(corpus_folder, tmp_path / f"{number}-{kill_at}", uninterrupted, kill_at)


@pytest.mark.slow
def test_another_batch_size_on_the_way_is_refused(corpus_folder: Path, tmp_path: Path) -> None:
    train(corpus_folder, tmp_path / "run", tmp_path / "journal", max_steps=5, save_steps=5)
    with pytest.raises(CorpusError, match="Use the batch size"):
        train(corpus_folder, tmp_path / "run", tmp_path / "journal", per_device_train_batch_size=4)


def test_it_is_for_streams_only(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="load_corpus"):
        Trainer(
            TinyClassifier(2),
            TrainingArguments(str(tmp_path), report_to=[], use_cpu=True),
            train_dataset=[{"counts": [1.0, 2.0], "labels": 1}],
            callbacks=[StreamPosition()],
        ).train()
