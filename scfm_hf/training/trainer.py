"""CellTrainer: transformers' Trainer for runs that must not be lost."""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from scfm_hf.errors import CheckpointError, TrainingError
from scfm_hf.training.length_sampler import LengthBucketSampler
from scfm_hf.training.throughput import Throughput, n_cells
from scfm_hf.training.whole_checkpoints import checkpoints, last_whole_checkpoint, list_files, refuse_damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import TrainOutput

logger = logging.get_logger(__name__)

#: Where a checkpoint is written before it has its name; the hub client is told to leave names that begin so alone.
UNFINISHED = "_unfinished"


class CellTrainer(Trainer):
    """The Trainer of transformers, with what long runs over cells need. It takes the same arguments.

    - A loss or gradient that is not finite stops the run before any weight changes (:class:`TrainingError`), and no
      checkpoint with such weights is ever written. The stock Trainer leaves them out of the log and goes on.
    - A checkpoint is written beside its place and renamed once all of it is on the disk: what carries the name is
      whole. ``train(resume_from_checkpoint=True)`` goes on from the last whole one, also of the stock Trainer.
    - A stream of :func:`scfm_hf.load_corpus` goes on exactly where it was: its position is in the checkpoint. A data
      collator with ``set_epoch`` is told of each epoch.
    - ``train_sampling_strategy="group_by_length"`` keeps its order when a run goes on in the middle of an epoch. A
      stream makes such batches itself (``load_corpus(..., bucket_batches=)``).
    - The log has cells and tokens a second, the share of time spent waiting for data, and each of the model's
      ``losses`` by its name (``loss_<name>``, ``eval_loss_<name>``).
    """

    _writing_to: Path | None = None

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        *,
        callbacks: list[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        self.throughput = Throughput()
        # By name: value and weight of each batch.
        self._losses: dict[str, dict[str, list[tuple[Tensor, int]]]] = {
            "loss": defaultdict(list),
            "eval_loss": defaultdict(list),
        }
        self._loss_is_finite: Tensor | None = None
        self._length_buckets: LengthBucketSampler | None = None
        callbacks = [*_offered_callbacks(train_dataset, callbacks or []), *(callbacks or [])]
        super().__init__(
            model, args, data_collator, train_dataset, callbacks=[*callbacks, self.throughput, _Epochs(self)], **options
        )
        # Trainer would leave losses that are not finite out of the log, and cost the same look at each of them.
        self.args.logging_nan_inf_filter = False
        strategy = self.args.train_sampling_strategy
        if strategy in ("group_by_length", "batch_rebalance") and isinstance(train_dataset, IterableDataset):
            raise ValueError(
                f"train_sampling_strategy={strategy!r} does nothing for a stream: it makes batches of cells of like "
                "length itself. Load it with load_corpus(..., batch_size=, bucket_batches=16)."
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> TrainOutput:
        """Train as the stock Trainer does; go on from whole checkpoints alone.

        Parameters
        ----------
        resume_from_checkpoint
            True for the last whole checkpoint of the output folder, or the path of one.
        *args, **options
            As of the stock Trainer.

        Raises
        ------
        TrainingError
            If a loss, gradient or weight is not finite.
        CheckpointError
            If the checkpoint named is not whole, or none is.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(self._last_whole_checkpoint())
        elif resume_from_checkpoint:
            refuse_damaged(resume_from_checkpoint)
        self._loss_is_finite = None
        return super().train(resume_from_checkpoint or None, *args, **options)

    def _last_whole_checkpoint(self) -> Path:
        found, damaged = last_whole_checkpoint(self.args.output_dir)
        for checkpoint, what in damaged.items():
            logger.warning(f"{checkpoint} is left out, it is not whole: {what}.")
        if found is None:
            raise CheckpointError(
                f"{self.args.output_dir} holds no whole checkpoint to go on from"
                + (f"; {len(damaged)} are damaged." if damaged else ".")
                + " Start without resume_from_checkpoint."
            )
        return found

    # Losses that are not finite ---------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Train on a batch, and note whether its loss is finite."""
        loss = super().training_step(*args, **options)
        finite = torch.isfinite(loss).all()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradient, just before the weights change: the last moment to stop."""
        norm = super()._get_grad_norm(model, grad_norm)
        gradient = float(norm) if norm is not None else 0.0
        loss_is_finite = self._loss_is_finite is None or bool(self._loss_is_finite)
        self._loss_is_finite = None
        # With half-precision floats the scaler expects gradients that overflow now and then, and skips the step.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        found = self._on_all_ranks([loss_is_finite, scaled or math.isfinite(gradient)])
        if not all(found):
            self._stop(found[0], gradient)
        return norm

    def _on_all_ranks(self, fine: list[bool]) -> list[bool]:
        """Whether each thing is fine on all ranks, so that all of them stop or none."""
        if self.accelerator.num_processes == 1:
            return fine
        wrong = torch.tensor([not one for one in fine], dtype=torch.int32, device=self.accelerator.device)
        return [not one for one in self.accelerator.reduce(wrong, reduction="sum").tolist()]

    def _stop(self, loss_is_finite: bool, gradient: float) -> None:
        what = "gradient" if loss_is_finite else "loss"
        by_name = {name: round(float(values[-1][0]), 6) for name, values in self._losses["loss"].items() if values}
        raise TrainingError(
            f"The {what} of step {self.state.global_step + 1} is not finite"
            + (f" (losses {by_name})" if by_name else f" (norm of the gradient {gradient:g})")
            + f"; learning rate {self._get_learning_rate():g}. Nothing was changed by this step. {self._kept()} Lower "
            "learning_rate or max_grad_norm, train in bf16 rather than fp16, or look for damaged values in the data."
        )

    def _kept(self) -> str:
        found, _ = last_whole_checkpoint(self.args.output_dir) if Path(self.args.output_dir).is_dir() else (None, {})
        return f"The last good checkpoint is {found}." if found else "No checkpoint has been written yet."

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside its place, and rename it once it is whole."""
        self._refuse_weights_that_are_not_finite()
        final = Path(super()._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished = final.parent / UNFINISHED / final.name
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with self._writing_into(unfinished.parent):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._name_best(final)
                self.state.save_to_json(str(unfinished / "trainer_state.json"))
                list_files(unfinished)
                _put_in_place(unfinished, final)
        finally:
            if self.args.should_save:
                shutil.rmtree(unfinished.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(final))
        if self.args.should_save:
            self._remove_old_checkpoints(final)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing_to) if self._writing_to is not None else super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint that is in its place; one that is still being written is pushed afterwards."""
        if self._writing_to is None:
            super()._push_from_checkpoint(checkpoint_folder)

    @contextmanager
    def _writing_into(self, folder: Path) -> Iterator[None]:
        self._writing_to = folder
        try:
            yield
        finally:
            self._writing_to = None

    def _name_best(self, final: Path) -> None:
        """Name the best checkpoint by the place that it has, or is about to get."""
        if self.state.best_global_step:
            best = final.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if best == final or best.is_dir():
                self.state.best_model_checkpoint = str(best)

    def _remove_old_checkpoints(self, newest: Path) -> None:
        """Keep ``save_total_limit`` checkpoints: the newest, the best, then the last of the others.

        Checkpoints of later steps than the newest are what an earlier run left, from before this one went back.
        """
        if not self.args.save_total_limit:
            return
        kept = {newest, Path(self.state.best_model_checkpoint or newest)}
        found = [path for path in checkpoints(newest.parent) if path not in kept]  # the last step first
        later = [path for path in found if int(path.name.rpartition("-")[2]) > self.state.global_step]
        others = [path for path in found if path not in later] + later
        for path in others[max(0, self.args.save_total_limit - len(kept)) :]:
            _remove(path)

    def _refuse_weights_that_are_not_finite(self) -> None:
        damaged = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not bool(torch.isfinite(_local(parameter)).all())
        ]
        if not all(self._on_all_ranks([not damaged])):
            raise TrainingError(
                f"After step {self.state.global_step} {len(damaged)} parameters hold values that are not finite "
                f"(first: {', '.join(damaged[:3])}); no checkpoint was written of them. {self._kept()} "
                "Lower learning_rate."
            )

    # Batches and the log ----------------------------------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """Fetch the batches of a step, and measure the wait."""
        self.throughput.fetching()
        batches, n_items = super().get_batch_samples(*args, **options)
        self.throughput.fetched(batches)
        return batches, n_items

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or dataset is None:
            return super()._get_train_sampler(train_dataset)
        column = self.args.length_column_name
        has_column = column in getattr(dataset, "column_names", ())
        lengths = dataset[column] if has_column else [_length(dataset[place]) for place in range(len(dataset))]
        self._length_buckets = LengthBucketSampler(
            lengths, batch_size=self.args.train_batch_size * self.args.world_size, seed=self.args.seed
        )
        return self._length_buckets

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        """The loss as the stock Trainer computes it; its parts, if the model gives them, are kept for the log."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        losses = outputs.get("losses") if isinstance(outputs, dict) else None
        # As Trainer does: steps of training count alike, batches of evaluation by their cells.
        where, weight = ("loss", 1) if model.training else ("eval_loss", n_cells(inputs))
        for name, value in (losses or {}).items():
            self._losses[where][name].append((value.detach().mean(), weight))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the stock Trainer does, with the parts of the loss and the speed."""
        for name in ("loss", "eval_loss"):
            if name in logs and self._losses[name]:
                parts = {
                    part: torch.stack([value * weight for value, weight in values]).sum() / sum(w for _, w in values)
                    for part, values in self._losses[name].items()
                }
                if self.accelerator.num_processes > 1:
                    parts = {part: self.accelerator.reduce(value, reduction="mean") for part, value in parts.items()}
                logs |= {f"{name}_{part}": float(value) for part, value in parts.items()}
                self._losses[name].clear()
        if "loss" in logs:
            logs |= self.throughput.take(self.accelerator).figures()
        super().log(logs, start_time)


class _Epochs(TrainerCallback):
    """Tells the collator and the sampler which epoch begins."""

    def __init__(self, trainer: CellTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch = int((state.epoch or 0) + 1e-9)
        for part in (self._trainer.data_collator, self._trainer._length_buckets):
            tell = getattr(part, "set_epoch", None)
            if tell is not None:
                tell(epoch)


def _offered_callbacks(dataset: Any, given: list[TrainerCallback]) -> list[TrainerCallback]:
    """The callback that a data set has for its trainer, unless there is one of its kind."""
    offers = getattr(dataset, "trainer_callback", None)
    offered = offers() if offers is not None else None
    return [] if offered is None or any(isinstance(one, type(offered)) for one in given) else [offered]


def _local(parameter: Tensor) -> Tensor:
    """The values of a parameter that this rank holds."""
    values = parameter.detach()
    return values.to_local() if hasattr(values, "to_local") else values


def _put_in_place(new: Path, final: Path) -> None:
    """Rename a checkpoint; one of the same step, which must be an older or damaged one, makes room."""
    old = new.with_name(f"{new.name}.old")
    if final.exists():
        final.rename(old)
    new.rename(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    shutil.rmtree(old, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that no half of it is ever seen under its name."""
    aside = checkpoint.parent / UNFINISHED / f"{checkpoint.name}.old"
    aside.parent.mkdir(exist_ok=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside.parent, ignore_errors=True)


def _length(cell: Any) -> int:
    """Tokens of a cell of a data set: the length of its longest column."""
    return max((len(value) for value in cell.values() if hasattr(value, "__len__")), default=1)
