"""Which cells lie beside a cell: neighbours for the neighbour objective, patches of a slide for its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Distances that are computed at a time.
_DISTANCES = 1 << 24


def neighbour_means(
    vectors: Tensor, coordinates: Tensor, n_neighbours: int, *, slide_index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean vector of the cells that lie nearest to each cell, the cell itself left out.

    Parameters
    ----------
    vectors
        (n_cells, size).
    coordinates
        Places of the cells, in any unit, (n_cells, 2) or (n_cells, 3).
    n_neighbours
        How many; where fewer cells are at hand, those.
    slide_index
        Slide of each cell, int64, (n_cells,): neighbours are of the same one. None: there is one slide.

    Returns
    -------
    Means, (n_cells, size), zeros for a cell without any other; and which cells have a neighbour, bool, (n_cells,).
    """
    n_cells = len(vectors)
    if coordinates.shape[0] != n_cells or coordinates.ndim != 2:
        raise ValueError(f"coordinates has the shape {tuple(coordinates.shape)}; there are {n_cells} cells.")
    n_wanted = min(n_neighbours, n_cells - 1)
    if n_wanted == 0:
        return torch.zeros_like(vectors), torch.zeros(n_cells, dtype=torch.bool, device=vectors.device)
    places = coordinates.to(torch.float32)
    means, has_any = [], []
    step = max(1, _DISTANCES // n_cells)
    for start in range(0, n_cells, step):
        rows = torch.arange(start, min(start + step, n_cells), device=vectors.device)
        # The quick way by a matrix product loses the small differences of large coordinates.
        distances = (places[rows, None] - places[None]).square().sum(-1)
        apart = rows[:, None] == torch.arange(n_cells, device=vectors.device)
        if slide_index is not None:
            apart = apart | (slide_index[rows, None] != slide_index[None])
        nearest = distances.masked_fill(apart, torch.inf).topk(n_wanted, dim=1, largest=False)
        counts = nearest.values.isfinite().to(vectors.dtype)
        summed = (vectors[nearest.indices] * counts.unsqueeze(-1)).sum(1)
        means.append(summed / counts.sum(1, keepdim=True).clamp(min=1))
        has_any.append(counts.any(1))
    return torch.cat(means), torch.cat(has_any)


def spatial_patches(
    coordinates: ArrayLike, n_cells: int, *, slides: ArrayLike | None = None, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Part slides into patches of neighbouring cells: batches in which the neighbour objective finds real neighbours.

    The authors describe such a sampler and have not released it; here each patch grows around a random cell that none
    has taken yet.

    Parameters
    ----------
    coordinates
        Places of the cells, (n_cells, 2).
    n_cells
        Cells a patch; the last ones of a slide may be smaller.
    slides
        Slide of each cell, (n_cells,); None: there is one.
    seed
        Of the order in which patches grow.

    Returns
    -------
    Row numbers of the cells of each patch, patches in random order; every cell is in one.

    References
    ----------
    Wang et al. 2025, bioRxiv 2025.02.05.636714, "Spatially-aware sampling".
    """
    if n_cells < 1:
        raise ValueError(f"n_cells={n_cells} leaves no cell in a patch.")
    places = np.asarray(coordinates, np.float64)
    labels = (
        np.zeros(len(places), np.int64) if slides is None else np.unique(np.asarray(slides), return_inverse=True)[1]
    )
    random = np.random.default_rng(seed)
    patches: list[NDArray[np.int64]] = []
    for label in range(labels.max(initial=-1) + 1):
        left = random.permutation(np.flatnonzero(labels == label))
        while len(left):
            size = min(n_cells, len(left))
            _, nearest = cKDTree(places[left]).query(places[left[0]], size)
            taken = np.atleast_1d(nearest)
            patches.append(left[taken])
            left = np.delete(left, taken)
    return [patches[number] for number in random.permutation(len(patches))]
