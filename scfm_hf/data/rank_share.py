"""Which cells of an epoch one of several ranks, and one of its workers, gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RankShare:
    """The share of a rank: every ``world_size``-th batch of what is left of an epoch.

    Parameters
    ----------
    rank, world_size
        Which of how many.
    batch_size
        Cells a batch.
    even_batches
        Whether all ranks get as many batches, as training in step needs: ranks share the cells of the last round
        evenly. If these are fewer than the ranks, some come to several ranks, so that each has one.
    """

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1
    even_batches: bool = False

    def size(self, n_cells: int) -> int:
        """Cells of the share, if ``n_cells`` are left over all ranks."""
        rounds, rest = divmod(n_cells, self.batch_size * self.world_size)
        return rounds * self.batch_size + len(self._of_last_round(rest))

    def holds(
        self, places: NDArray[np.int64], n_cells: int, *, worker: int = 0, n_workers: int = 1
    ) -> NDArray[np.bool_]:
        """Whether the cells at some places come from a worker of this rank; workers take turns by batches.

        Parameters
        ----------
        places
            Counted from the first cell that is left.
        n_cells
            Cells that are left over all ranks.
        worker, n_workers
            Which of how many.
        """
        batch = places // self.batch_size
        held = batch % self.world_size == self.rank
        rest = n_cells % (self.batch_size * self.world_size)
        if rest:
            last = places - (n_cells - rest)
            share = self._of_last_round(rest)
            held = np.where(last < 0, held, (last >= share.start) & (last < share.stop))
        return held & (batch // self.world_size % n_workers == worker)

    def _of_last_round(self, rest: int) -> range:
        """Places of the share among the last cells, which do not fill a batch of every rank."""
        if not self.even_batches:
            return range(min(self.rank * self.batch_size, rest), min((self.rank + 1) * self.batch_size, rest))
        if 0 < rest < self.world_size:
            return range(self.rank % rest, self.rank % rest + 1)
        each, more = divmod(rest, self.world_size)
        first = self.rank * each + min(self.rank, more)
        return range(first, first + each + (self.rank < more))
