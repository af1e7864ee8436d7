"""Processes that torchrun or accelerate launch started together."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long a rank waits for the others: as long as a large data set may take.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """A process among those that were started together.

    Parameters
    ----------
    rank, world_size
        Which of how many.
    group
        What they meet in; None for a single process.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    def meet(self) -> None:
        """Wait until all ranks have come here; raises RuntimeError if one has died."""
        if self.group is not None:
            import torch

            torch.distributed.barrier(self.group)


def is_first_rank() -> bool:
    """Whether this process is the first, or the only one, of those that were started together."""
    return os.environ.get("RANK", "0") == "0"


def n_ranks() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def ranks_together() -> Iterator[Ranks]:
    """Join the processes that were started together, by gloo; a group that is there already is left as it is."""
    import torch.distributed as dist

    if n_ranks() == 1:
        yield Ranks()
        return
    joined_here = not dist.is_initialized()
    if joined_here:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    finally:
        if joined_here:
            dist.destroy_process_group()
