"""CellTrainer on two ranks: one that dies while a checkpoint is written leaves no half of it, and the run goes on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ranks import on_ranks
from transformers import TrainingArguments

from scfm_hf.data.corpus import load_corpus
from scfm_hf.training import trainer as trainer_module
from scfm_hf.training.trainer import CellTrainer
from scfm_hf.training.whole_checkpoints import checkpoints, damage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.full


class TinyClassifier(torch.nn.Module):
    """Counts -> dropout -> classes."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(n_genes, 9))

    def forward(self, counts: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(counts)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def train(cells: Path, folder: Path, *, resume: bool = False, fault: Callable[[], None] | None = None) -> None:
    """Three epochs of six steps, with a checkpoint after every fourth step."""
    torch.manual_seed(0)
    if fault is not None:
        fault()
    stream = load_corpus(cells, labels="cell_type", block_size=4, window_size=24, batch_size=6)

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        counts = torch.zeros(len(batch), len(stream.vocabulary))
        for row, cell in enumerate(batch):
            counts[row, torch.from_numpy(cell["gene_ids"]).long()] = torch.from_numpy(cell["counts"]).log1p()
        return {"counts": counts, "labels": torch.tensor([cell["labels"] for cell in batch])}

    arguments = TrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=6,
        num_train_epochs=3,
        save_steps=4,
        logging_steps=1,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo",
        accelerator_config={"dispatch_batches": False},
    )
    trainer = CellTrainer(TinyClassifier(len(stream.vocabulary)), arguments, collate, stream)
    trainer.train(resume_from_checkpoint=resume)
    if os.environ["RANK"] == "0":
        (folder / "losses").write_text(
            "\n".join(str(log["loss"]) for log in trainer.state.log_history if "loss" in log)
        )


def dying(rank: str, name: str, step: int) -> Callable[[], None]:
    """Kill a rank where CellTrainer calls something while it writes the checkpoint of a step."""

    def install() -> None:
        if os.environ["RANK"] != rank:
            return
        owner = CellTrainer if hasattr(CellTrainer, name) else trainer_module
        original = getattr(owner, name)

        def dies(*arguments: Any, **options: Any) -> Any:
            folder = next(str(argument) for argument in reversed(arguments) if "checkpoint-" in str(argument))
            if folder.endswith(f"checkpoint-{step}"):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, dies)

    return install


@pytest.fixture(scope="module")
def cells(data_dir: Path) -> Path:
    return data_dir / "human_pbmc.h5ad"


@pytest.fixture(scope="module")
def uninterrupted(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    assert on_ranks(2, train, cells, folder) == [0, 0]
    return (folder / "losses").read_text()


@pytest.mark.parametrize(
    ("rank", "name"),
    [("1", "_save_rng_state"), ("0", "_save_rng_state"), ("0", "_save_optimizer_and_scheduler"), ("0", "list_files")],
)
def test_a_rank_that_dies_leaves_no_half_checkpoint(
    cells: Path, tmp_path: Path, uninterrupted: str, rank: str, name: str
) -> None:
    codes = on_ranks(2, train, cells, tmp_path, fault=dying(rank, name, 8))
    assert codes[int(rank)] == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4"]
    assert damage(tmp_path / "run" / "checkpoint-4") is None
    assert on_ranks(2, train, cells, tmp_path, resume=True) == [0, 0]
    assert (tmp_path / "losses").read_text() == uninterrupted
