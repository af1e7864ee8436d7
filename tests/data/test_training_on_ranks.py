"""Training on two ranks over gloo with the stock Trainer: the cells of one process in its order, and its gradients."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from ranks import on_ranks
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.trainer_position import StreamPosition
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_hf.data.stream import CellStream

#: Ranks, batch size and workers: 72 cells leave two to four cells for the last step.
LAST_STEPS = [(2, 5, 2), (2, 7, 1), (2, 17, 0), (3, 5, 2), (3, 7, 0)]
#: What StreamPosition reads of the arguments.
ARGUMENTS: Any = SimpleNamespace(gradient_accumulation_steps=1, world_size=1)


class RecordingClassifier(torch.nn.Module):
    """Counts -> classes; notes the cells that it is trained on."""

    def __init__(self, n_genes: int, record: Path, dropout: float) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.Linear(n_genes, 9))
        self.record = record

    def forward(self, counts: torch.Tensor, labels: torch.Tensor, cell: torch.Tensor) -> dict[str, torch.Tensor]:
        with self.record.open("a") as file:
            file.write(" ".join(map(str, cell.tolist())) + "\n")
        logits = self.layers(counts)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Losses(TrainerCallback):
    """Writes the loss of every step, and kills this rank at the beginning of one."""

    def __init__(self, path: Path, kill_at: int | None) -> None:
        self.path, self.kill_at = path, kill_at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            with self.path.open("a") as file:
                file.write(f"{state.global_step} {logs['loss'].hex()}\n")


def train(
    corpus: Path,
    folder: Path,
    *,
    batch_size: int,
    kill_at: int | None = None,
    dropout: float = 0.0,
    position: bool = True,
    **changes: Any,
) -> None:
    """Train on the rank that the environment names, or go on from the last checkpoint."""
    torch.manual_seed(0)
    rank = os.environ.get("RANK", "0")
    stream = load_corpus(
        corpus, labels="cell_type", columns=["cell"], block_size=4, window_size=24, batch_size=batch_size, seed=5
    )

    def collate(cells: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        counts = torch.zeros(len(cells), len(stream.vocabulary))
        for row, cell in enumerate(cells):
            counts[row, torch.from_numpy(cell["gene_ids"]).long()] = torch.from_numpy(np.log1p(cell["counts"]))
        columns = {name: torch.tensor([cell[name] for cell in cells]) for name in ("labels", "cell")}
        return {"counts": counts, **columns}

    options: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 2,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 0.01,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
        "ddp_backend": "gloo" if "RANK" in os.environ else None,
        "accelerator_config": {"dispatch_batches": False},
    }
    model = RecordingClassifier(len(stream.vocabulary), folder / f"cells{rank}", dropout)
    trainer = Trainer(
        model,
        TrainingArguments(str(folder / "run"), **options | changes),
        train_dataset=stream,
        data_collator=collate,
        callbacks=[
            Losses(folder / f"losses{rank}", kill_at if rank == "1" else None),
            *([StreamPosition()] * position),
        ],
    )
    last = get_last_checkpoint(str(folder / "run")) if (folder / "run").exists() else None
    trainer.train(resume_from_checkpoint=last)
    if rank == "0":
        torch.save(model.state_dict(), folder / "weights.pt")


def steps(folder: Path, world_size: int = 1) -> list[list[int]]:
    """Cells of every step, ranks one after the other."""
    ranks = [(folder / f"cells{rank}").read_text().splitlines() for rank in range(world_size)]
    return [[int(cell) for part in step for cell in part.split()] for step in zip(*ranks, strict=True)]


def losses(folder: Path) -> list[float]:
    return [float.fromhex(line.split()[1]) for line in (folder / "losses0").read_text().splitlines()]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


def test_two_ranks_see_the_cells_of_one_process_and_learn_the_same(
    corpus_folder: Path, folders: tuple[Path, Path]
) -> None:
    one, two = folders
    assert on_ranks(1, train, corpus_folder, one, batch_size=12) == [0]
    assert on_ranks(2, train, corpus_folder, two, batch_size=6) == [0, 0]
    assert steps(two, 2) == steps(one)
    assert sorted(cell for step in steps(two, 2)[:6] for cell in step) == list(range(72))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    weights = [torch.load(folder / "weights.pt") for folder in folders]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize(("world_size", "batch_size", "workers"), LAST_STEPS)
def test_the_last_cells_of_an_epoch_come_once_too(
    corpus_folder: Path, folders: tuple[Path, Path], world_size: int, batch_size: int, workers: int
) -> None:
    one, several = folders
    assert on_ranks(1, train, corpus_folder, one, batch_size=world_size * batch_size) == [0]
    assert (
        on_ranks(world_size, train, corpus_folder, several, batch_size=batch_size, dataloader_num_workers=workers)
        == [0] * world_size
    )
    assert steps(several, world_size) == steps(one)
    assert sorted(cell for step in steps(several, world_size) for cell in step) == sorted([*range(72)] * 2)


@pytest.mark.full
@pytest.mark.parametrize("kill_at", [4, 11, 17])
def test_ranks_go_on_as_if_none_had_died(corpus_folder: Path, folders: tuple[Path, Path], kill_at: int) -> None:
    """With workers, dropout and accumulated gradients; one rank is killed in the first, second or third epoch."""
    whole, killed = folders
    options: dict[str, Any] = {
        "batch_size": 3,
        "dropout": 0.3,
        "num_train_epochs": 3,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    assert on_ranks(2, train, corpus_folder, whole, **options) == [0, 0]
    assert on_ranks(2, train, corpus_folder, killed, kill_at=kill_at, **options)[1] == -signal.SIGKILL
    for file in (*killed.glob("cells*"), *killed.glob("losses*")):
        file.unlink()
    assert on_ranks(2, train, corpus_folder, killed, **options) == [0, 0]
    done = kill_at // 3 * 3
    assert steps(killed, 2) == steps(whole, 2)[2 * done :]
    assert losses(killed) == losses(whole)[done:]


@pytest.mark.full
def test_without_the_callback_each_rank_takes_all_and_fills_the_last_batch_up(
    corpus_folder: Path, folders: tuple[Path, Path]
) -> None:
    one, two = folders
    assert on_ranks(1, train, corpus_folder, one, batch_size=10, num_train_epochs=1) == [0]
    assert on_ranks(2, train, corpus_folder, two, batch_size=5, num_train_epochs=1, position=False) == [0, 0]
    assert steps(two, 2)[:7] == steps(one)[:7]
    assert len(steps(two, 2)[7]) == 10 > len(steps(one)[7])


def prepared(stream: CellStream, rank: int, world_size: int, **options: Any) -> Any:
    """The loader of Trainer on one of several ranks, after StreamPosition has seen it."""
    workers = options.pop("workers", 0)
    loader = prepare_data_loader(
        DataLoader(
            stream, batch_size=6, num_workers=workers, collate_fn=lambda cells: [cell["cell"] for cell in cells]
        ),
        num_processes=world_size,
        process_index=rank,
        **options,
    )
    StreamPosition().on_train_begin(ARGUMENTS, TrainerState(), TrainerControl(), train_dataloader=loader)
    return loader


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_the_order_is_the_same_for_any_number_of_ranks_and_workers(corpus_folder: Path, workers: int) -> None:
    """Without a batch size: StreamPosition takes that of the loader."""
    stream = load_corpus(corpus_folder, columns=["cell"], block_size=4, window_size=24)
    expected = [cell["cell"] for cell in stream]
    for world_size in (1, 2, 3):
        loaders = [prepared(stream, rank, world_size, workers=workers) for rank in range(world_size)]
        assert len({len(loader) for loader in loaders}) == 1
        assert [cell for step in zip(*loaders, strict=True) for batch in step for cell in batch] == expected


def test_a_rank_encodes_its_share_only(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = load_corpus(corpus_folder, columns=["cell"], block_size=4, window_size=24)
    read = []
    original = stream._reader.read
    monkeypatch.setattr(stream._reader, "read", lambda *given: read.append(given[1].sum()) or original(*given))
    cells = [cell for batch in prepared(stream, 1, 2) for cell in batch]
    assert len(cells) == sum(read) == 36


def test_reading_on_the_first_rank_for_all_is_refused(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is accelerate's default, and fails for batches of different lengths; one process is not concerned."""
    stream = load_corpus(corpus_folder, columns=["cell"])
    prepared(stream, 0, 1, dispatch_batches=True, put_on_device=True)
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    with pytest.raises(CorpusError, match="dispatch_batches"):
        prepared(stream, 0, 2, dispatch_batches=True, put_on_device=True)


def test_ranks_that_trainer_does_not_know_of_are_refused(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors without ``use_cpu`` and ``ddp_backend``: each would train a model of its own on all cells."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CorpusError, match='ddp_backend="gloo"'):
        prepared(load_corpus(corpus_folder, columns=["cell"]), 0, 1)


def test_workers_that_would_not_hear_of_the_next_epoch_are_refused(corpus_folder: Path) -> None:
    loader = DataLoader(load_corpus(corpus_folder), batch_size=2, num_workers=1, persistent_workers=True)
    with pytest.raises(CorpusError, match="persistent_workers"):
        StreamPosition().on_train_begin(ARGUMENTS, TrainerState(), TrainerControl(), train_dataloader=loader)
