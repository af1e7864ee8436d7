"""How fast a run is: cells and tokens a second, and the share of time in which it waits for data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import TrainerControl, TrainerState, TrainingArguments


@dataclass
class Spent:
    """What was done, and the time that it took.

    Parameters
    ----------
    cells, tokens
        Over all ranks; tokens without padding.
    waiting, training
        Seconds in which this process waited for batches, and in which it had one.
    """

    cells: int = 0
    tokens: int = 0
    waiting: float = 0.0
    training: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.cells + other.cells,
            self.tokens + other.tokens,
            self.waiting + other.waiting,
            self.training + other.training,
        )

    def figures(self) -> dict[str, float]:
        """Figures by the names that they have in the log; none if no time has passed."""
        seconds = self.waiting + self.training
        if not seconds:
            return {}
        return {
            "cells_per_second": self.cells / seconds,
            "tokens_per_second": self.tokens / seconds,
            "share_waiting_for_data": self.waiting / seconds,
        }


class Throughput(TrainerCallback, ExportableState):
    """Measures the steps of a Trainer: evaluation and saving do not count. A run that goes on counts on.

    The time of a step ends when its weights are updated. On an accelerator this holds as far as the step waits for its
    results, as CellTrainer does when it looks at the loss.
    """

    def __init__(self) -> None:
        #: All that was counted before the last log.
        self.total = Spent()
        self._waiting = self._training = 0.0
        self._cells, self._tokens = 0, torch.zeros((), dtype=torch.int64)
        self._since: float | None = None

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint."""
        return {"args": {}, "attributes": {"total": asdict(self.total)}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count on from a checkpoint, if there is one."""
        saved: Any = state.stateful_callbacks or {}
        total = saved.get(type(self).__name__, {}).get("attributes", {}).get("total") if state.global_step else None
        self.total = Spent(**total) if total else Spent()
        # Trainer cannot save a callback that the checkpoint to go on from does not have.
        state.stateful_callbacks = {type(self).__name__: self.state(), **saved}

    def fetching(self) -> None:
        """Note that a batch is being waited for."""
        self._since = time.perf_counter()

    def fetched(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Note that the batches of a step are there."""
        now = time.perf_counter()
        self._waiting += now - (self._since if self._since is not None else now)
        self._since = now
        for batch in batches:
            self._cells += n_cells(batch)
            tokens = _n_tokens(batch)
            self._tokens = self._tokens.to(tokens.device) + tokens

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the end of a step."""
        if self._since is not None:
            self._training += time.perf_counter() - self._since
            self._since = None

    def take(self, accelerator: Any) -> Spent:
        """What was counted since the last call, over all ranks; every rank must call it."""
        counted = torch.stack([torch.tensor(self._cells, device=self._tokens.device), self._tokens])
        if accelerator.num_processes > 1:
            counted = accelerator.reduce(counted.to(accelerator.device), reduction="sum")
        cells, tokens = counted.tolist()
        spent = Spent(cells, tokens, self._waiting, self._training)
        self._cells, self._tokens = 0, torch.zeros_like(self._tokens)
        self._waiting = self._training = 0.0
        self.total = self.total + spent
        return spent


def n_cells(batch: Mapping[str, Any]) -> int:
    """Cells of a batch, whose tensors may lie in mappings within it."""
    return next((len(value) for _, value in _tensors(batch) if value.ndim), 0)


def _n_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Tokens of a batch that are no padding; of a batch without tokens its largest tensor's numbers; int64, scalar."""
    masks = [value for name, value in _tensors(batch) if name == "attention_mask"]
    if masks:
        return torch.stack([mask.sum(dtype=torch.int64) for mask in masks]).sum()
    return torch.tensor(max((value.numel() for _, value in _tensors(batch)), default=0))


def _tensors(batch: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in batch.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value)
