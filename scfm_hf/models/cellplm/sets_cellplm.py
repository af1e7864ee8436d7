"""Sets of cells: which cells of a batch see each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Number of a cell that is a set of its own.
ALONE = -1


class CellSets:
    """Cells of a batch by the sets that they belong to.

    Parameters
    ----------
    cell_sets
        Number of each cell's set, int64, (n_cells,); -1 or None: the cell is a set of its own.
    alive
        Cells that have a gene, bool, (n_cells,); the others belong to no set, and get zeros. None: all have one.
    """

    def __init__(self, cell_sets: Tensor | None, alive: Tensor | None) -> None:
        self.alive = alive
        #: Cells of all sets of one size, (n_sets, n_cells); None: each cell alone.
        self.groups: list[Tensor] | None = None
        if cell_sets is not None:
            self.groups = _by_size(cell_sets, alive)

    def apply(self, layer: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """Run a layer on (n_sets, n_cells, hidden_size), sets of one size at a time; (n_cells, hidden_size) in and out.

        What the layer gives a set, (n_sets, n_cells or 1, ...), comes back to its cells.
        """
        if self.groups is None:
            alone = layer(states[:, None])[:, 0]
            return alone if self.alive is None else alone * self.alive[:, None].to(alone.dtype)
        new: Tensor | None = None
        for rows in self.groups:
            given = layer(states[rows])
            if new is None:
                new = given.new_zeros(len(states), given.shape[-1])
            new = new.index_put((rows.flatten(),), given.expand(*rows.shape, -1).flatten(0, 1))
        return torch.zeros_like(states) if new is None else new


def _by_size(cell_sets: Tensor, alive: Tensor | None) -> list[Tensor]:
    """Rows of the cells of each set, in the order of the batch, sets of one size together."""
    rows = torch.arange(len(cell_sets), device=cell_sets.device)
    # Numbers of sets are not negative: the lonely ones get negative numbers of their own.
    numbers = torch.where(cell_sets < 0, -1 - rows, cell_sets)
    if alive is not None:
        rows, numbers = rows[alive], numbers[alive]
    order = torch.argsort(numbers, stable=True)
    sizes = torch.unique_consecutive(numbers[order], return_counts=True)[1]
    ordered = rows[order].split(sizes.tolist())
    by_size: dict[int, list[Tensor]] = {}
    for members in ordered:
        by_size.setdefault(len(members), []).append(members)
    return [torch.stack(same) for same in by_size.values()]
