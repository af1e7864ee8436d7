"""CellTrainer: what a long run must not lose, and what its log says."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import in_a_process
from training.runs import Journal, StopAt, TinyModel, cells, losses, run, state_of, trainer
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from scfm_hf.errors import CheckpointError, TrainingError
from scfm_hf.training.trainer import UNFINISHED
from scfm_hf.training.whole_checkpoints import damage, last_whole_checkpoint


class Spoil(torch.nn.Module):
    """The tiny model, whose loss or gradient is not finite from one step on."""

    def __init__(self, after: int, what: str) -> None:
        super().__init__()
        self.model, self.after, self.what, self.calls = TinyModel(), after, what, 0

    def forward(self, **inputs: Any) -> dict[str, Any]:
        outputs, self.calls = self.model(**inputs), self.calls + 1
        if self.calls > self.after:
            if self.what == "loss":
                outputs["losses"]["size"] = outputs["losses"]["size"] * float("nan")
                outputs["loss"] = outputs["loss"] + outputs["losses"]["size"]
            else:  # a square root at zero: finite, with a gradient that is not
                outputs["loss"] = outputs["loss"] + (0 * outputs["logits"]).abs().sum().sqrt()
        return outputs


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    what: str, tmp_path: Path
) -> None:
    made = trainer(tmp_path, model=Spoil(12, what), save_total_limit=1)
    with pytest.raises(TrainingError, match=f"{what} of step 13 is not finite.*checkpoint-10"):
        made.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert all(value.isfinite().all() for value in weights(tmp_path / "checkpoint-10").values())
    assert all(parameter.isfinite().all() for parameter in made.model.parameters()), "the step changed the weights"


def test_the_message_of_a_bad_loss_names_the_objective(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'size': nan"):
        trainer(tmp_path, model=Spoil(2, "loss")).train()


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(tmp_path: Path) -> None:
    """A learning rate beyond all measure: the gradient is finite, what it makes of the weights is not."""

    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if state.global_step == 9:
                with torch.no_grad():
                    model.layers[1].weight[0, 0] = float("inf")

    made = trainer(tmp_path, callbacks=[Overflow()])
    with pytest.raises(TrainingError, match=r"(?s)layers\.1\.weight.*checkpoint-5"):
        made.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_with_accumulated_batches_one_bad_loss_among_them_is_seen(tmp_path: Path) -> None:
    made = trainer(tmp_path, model=Spoil(4, "loss"), gradient_accumulation_steps=3)
    with pytest.raises(TrainingError, match="step 2 "):
        made.train()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert in_a_process(run, folder / "run", folder / "journal") == 0
    return (folder / "journal").read_text().splitlines()


@pytest.mark.parametrize("kill_at", [pytest.param(8, marks=pytest.mark.full), 31])
def test_a_run_killed_at_a_step_goes_on_with_the_same_losses(
    kill_at: int, tmp_path: Path, uninterrupted: list[str]
) -> None:
    """In the first and in the third epoch; bit by bit."""
    journal = tmp_path / "journal"
    assert in_a_process(run, tmp_path / "run", journal, kill_at=kill_at) == -signal.SIGKILL
    journal.unlink()
    assert in_a_process(run, tmp_path / "run", journal) == 0
    assert journal.read_text().splitlines() == uninterrupted[kill_at // 5 * 5 :]


class KillWhileSaving:
    """Kills the process when it writes a file of its second checkpoint."""

    def __init__(self, name: str) -> None:
        self.name, self.times = name, 0

    def __call__(self, original: Any) -> Any:
        def save(what: Any, place: Any, *arguments: Any, **options: Any) -> Any:
            if Path(place).name == self.name:
                self.times += 1
                if self.times == 2:
                    Path(place).write_bytes(b"PK\x03\x04 half of it")
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(what, place, *arguments, **options)

        return save


def run_and_die_while_saving(output: Path, journal: Path, name: str, make: Any = trainer) -> None:
    torch.save = KillWhileSaving(name)(torch.save)
    make(output, callbacks=[Journal(journal)]).train()


def stock_trainer(output: Path, **options: Any) -> Trainer:
    made = trainer(output, **options)
    stock = Trainer(made.model, made.args, train_dataset=made.train_dataset)
    return stock


@pytest.mark.parametrize("name", ["optimizer.pt", pytest.param("rng_state.pth", marks=pytest.mark.full)])
def test_a_kill_while_saving_leaves_nothing_that_looks_like_a_checkpoint(
    name: str, tmp_path: Path, uninterrupted: list[str]
) -> None:
    output, journal = tmp_path / "run", tmp_path / "journal"
    assert in_a_process(run_and_die_while_saving, output, journal, name) == -signal.SIGKILL
    assert (output / UNFINISHED / "checkpoint-10" / name).exists(), "it was not killed in the middle"
    assert get_last_checkpoint(str(output)) == str(output / "checkpoint-5")
    assert damage(output / "checkpoint-5") is None
    journal.unlink()
    assert in_a_process(run, output, journal) == 0
    assert journal.read_text().splitlines() == uninterrupted[5:]
    assert not (output / UNFINISHED).exists()


@pytest.mark.parametrize("name", ["optimizer.pt", pytest.param("rng_state.pth", marks=pytest.mark.full)])
def test_a_checkpoint_that_the_stock_trainer_left_half_written_is_passed_over(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    assert in_a_process(run_and_die_while_saving, output, tmp_path / "journal", name, stock_trainer) == -signal.SIGKILL
    assert get_last_checkpoint(str(output)) == str(output / "checkpoint-10")
    found, damaged = last_whole_checkpoint(output)
    assert found == output / "checkpoint-5"
    assert list(damaged) == [output / "checkpoint-10"]
    made = trainer(output, max_steps=12, save_total_limit=1)
    made.train(resume_from_checkpoint=True)
    assert made._initial_global_step == 5
    assert last_whole_checkpoint(output) == (output / "checkpoint-12", {}), "the damaged one is gone in the end"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda folder: cut(folder / "trainer_state.json"), "trainer_state.json cannot be read"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda folder: cut(folder / "checkpoint_files.json"), "checkpoint_files.json cannot be read"),
        (lambda folder: folder.rename(folder.with_name("checkpoint-7")), "state is that of step 5"),
    ],
)
def test_damage_is_named(spoil: Any, message: str, tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=5).train()
    spoil(tmp_path / "checkpoint-5")
    (folder,) = tmp_path.iterdir()
    with pytest.raises(CheckpointError, match=message):
        trainer(tmp_path, max_steps=7).train(resume_from_checkpoint=str(folder))
    with pytest.raises(CheckpointError, match="1 are damaged"):
        trainer(tmp_path, max_steps=7).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_optimizer_cannot_be_gone_on_from(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=5, save_only_model=True).train()
    with pytest.raises(CheckpointError, match="save_only_model"):
        trainer(tmp_path, max_steps=7).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_full_disk_leaves_the_earlier_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.save

    def save(what: Any, place: Any, *arguments: Any, **options: Any) -> None:
        if "checkpoint-10" in str(place) and "optimizer" in str(place):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(what, place, *arguments, **options)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space"):
        trainer(tmp_path, save_total_limit=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert damage(tmp_path / "checkpoint-5") is None


def test_the_limit_keeps_the_last_and_the_best_checkpoint(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # so that the first one is the best
        held_out=cells(12),
    )
    made.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-36", "checkpoint-5"]
    assert state_of(tmp_path / "checkpoint-36")["best_model_checkpoint"] == str(tmp_path / "checkpoint-5")
    for name, value in weights(tmp_path / "checkpoint-5").items():
        torch.testing.assert_close(made.model.state_dict()[name], value)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=5).train()
    shutil.rmtree(tmp_path / "checkpoint-5" / "optimizer.pt", ignore_errors=True)
    (tmp_path / "checkpoint-5" / "mark").touch()
    trainer(tmp_path, max_steps=5).train()
    assert not (tmp_path / "checkpoint-5" / "mark").exists()
    assert damage(tmp_path / "checkpoint-5") is None


def test_the_log_has_speed_waiting_and_the_losses_by_name(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=4, logging_steps=2, eval_strategy="steps", eval_steps=2, held_out=cells(12))
    made.train()
    logged = [entry for entry in made.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["loss_class"] + entry["loss_size"], rel=1e-5)
        assert entry["cells_per_second"] > 0
        assert entry["tokens_per_second"] == pytest.approx(4 * entry["cells_per_second"])
        assert 0 < entry["share_waiting_for_data"] < 1
    assert (made.throughput.total.cells, made.throughput.total.tokens) == (24, 96)
    evaluated = [entry for entry in made.state.log_history if "eval_loss" in entry]
    for entry in evaluated:
        assert entry["eval_loss"] == pytest.approx(entry["eval_loss_class"] + entry["eval_loss_size"], rel=1e-5)


def test_padding_counts_as_no_token() -> None:
    from scfm_hf.training.throughput import Throughput

    class OneProcess:
        num_processes = 1

    measured = Throughput()
    measured.fetching()
    measured.fetched([{"input_ids": torch.ones(2, 5), "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1] * 5])}])
    assert measured.take(OneProcess()).tokens == 8


class Noisy:
    """A collator that notes which epoch it was told of."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __call__(self, drawn: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([cell[name] for cell in drawn]) for name in ("numbers", "labels")}


def test_the_collator_is_told_of_each_epoch_also_when_a_run_goes_on(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_steps=15)
    first.data_collator = Noisy()
    first.train()
    second = trainer(tmp_path)
    second.data_collator = Noisy()
    second.train(resume_from_checkpoint=True)
    assert (second.throughput.total.cells, second.throughput.total.tokens) == (36 * 6, 36 * 24), "it counts on"
    assert first.data_collator.epochs == [0, 1]
    assert second.data_collator.epochs == [1, 2]


def ragged() -> list[dict[str, Any]]:
    """Cells whose length differs, each with a number of its own."""
    return [{"numbers": [1.0] * (1 + place * 7 % 13), "labels": 0, "place": place} for place in range(72)]


class Ragged(torch.nn.Module):
    """Notes the cells of each batch, and how much padding they have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[list[int]] = []

    def forward(self, numbers: torch.Tensor, place: torch.Tensor) -> dict[str, torch.Tensor]:
        self.batches.append(place.tolist())
        return {"loss": (self.weight * numbers).sum()}


def pad(drawn: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    rows = [torch.tensor(cell["numbers"]) for cell in drawn]
    return {
        "numbers": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "place": torch.tensor([cell["place"] for cell in drawn]),
    }


def length_trainer(output: Path, **options: Any) -> Any:
    made = trainer(output, model=Ragged(), data=ragged(), train_sampling_strategy="group_by_length", **options)
    made.data_collator = pad
    return made


def test_batches_of_like_length_stay_the_same_when_a_run_goes_on(tmp_path: Path) -> None:
    whole = length_trainer(tmp_path / "whole")
    whole.train()
    for epoch in range(3):
        drawn = whole.model.batches[12 * epoch : 12 * epoch + 12]
        assert sorted(sum(drawn, [])) == list(range(72))
        lengths = [[1 + place * 7 % 13 for place in batch] for batch in drawn]
        assert max(max(batch) - min(batch) for batch in lengths) <= 2
    assert whole.model.batches[:12] != whole.model.batches[12:24]
    length_trainer(tmp_path / "part", callbacks=[StopAt(30)]).train()
    rest = length_trainer(tmp_path / "part")
    rest.train(resume_from_checkpoint=True)
    assert rest.model.batches == whole.model.batches[30:]
    assert losses(rest) == losses(whole)


def test_a_stream_is_asked_to_make_batches_of_like_length_itself(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(cells())

    with pytest.raises(ValueError, match="bucket_batches"):
        trainer(tmp_path, data=Stream(), train_sampling_strategy="group_by_length", max_steps=2)
