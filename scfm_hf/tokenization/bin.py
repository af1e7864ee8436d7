"""Binned values: each cell's expression in as many equally filled bins, by the quantiles of its own non-zero values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scfm_hf.tokenization.ragged import Ragged, row_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_hf.tokenization.draws import Draws

#: Values binned at a time: they stay in the processor's cache.
_CHUNK = 1 << 16

#: Which bin a value takes that several bin edges are equal to.
Ties = Literal["upper", "lower", "middle", "random"]


@dataclass(frozen=True)
class BinnedValues:
    """The bins of each cell's values.

    Parameters
    ----------
    bins
        Bin of each value, int64: 0 for zeros, else 1 .. n_bins - 1.
    lower, upper
        Ends of what the bin may be, int64: any of ``lower + 1 .. upper``, or ``upper`` where both are equal.
    edges
        Quantiles of each cell's non-zero values, float64, (n_cells, n_bins - 1); zeros in cells without any.
    """

    bins: Ragged
    lower: Ragged
    upper: Ragged
    edges: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.bins)


def bin_values(
    values: Ragged,
    *,
    n_bins: int = 51,
    ties: Ties = "upper",
    draws: Draws | None = None,
    cell_ids: Sequence[str | int] | None = None,
) -> BinnedValues:
    """Put each cell's non-zero values into bins that hold equally many of them.

    The edges are the ``n_bins - 1`` evenly spaced quantiles (linear interpolation, as ``numpy.quantile`` of float32
    values) of the cell's non-zero values. A value between two edges has one bin. One that several edges are equal to,
    as the low counts of a cell are, may take any bin between them; ``ties`` says which.

    Parameters
    ----------
    values
        Expression of each cell, used as float32. Zeros, if any, get bin 0.
    n_bins
        Bins, that of the zeros included.
    ties
        ``"upper"``, ``"lower"``, ``"middle"`` of the possible bins, or ``"random"``, uniform over them.
    draws
        Where random bins are drawn from: one number a non-zero value, cell by cell.
    cell_ids
        Names of the cells for ``draws``, (n_cells,).

    Raises
    ------
    ValueError
        If there are fewer than two bins, ``ties`` is none of the four, or random bins are asked for without ``draws``
        and ``cell_ids``.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Input embeddings: expression values".
    """
    if n_bins < 2:
        raise ValueError(f"There must be a bin for the zeros and at least one other; got n_bins={n_bins}.")
    if ties not in get_args(Ties):
        raise ValueError(f"ties is one of {', '.join(map(repr, get_args(Ties)))}; got {ties!r}.")
    row = values.values.astype(np.float32)
    expressed = row != 0
    if expressed.all():
        kept = Ragged(row, values.offsets)
    else:
        kept = Ragged(row[expressed], np.append(0, np.cumsum(expressed))[values.offsets])
    blocks = [
        _bin_ends(kept.values[kept.offsets[first] : kept.offsets[last]], kept.offsets[first : last + 1], n_bins - 1)
        for first, last in row_blocks(kept.offsets, _CHUNK)
    ]
    lower, upper = (np.concatenate([np.empty(0, np.int64), *(block[end] for block in blocks)]) for end in (0, 1))
    edges = np.concatenate([np.empty((0, n_bins - 1)), *(block[2] for block in blocks)])
    bins = _choose_bins(Ragged(lower, kept.offsets), upper, ties, draws, cell_ids)

    def with_zeros(of_kept: NDArray[np.int64]) -> Ragged:
        if len(of_kept) == len(row):
            return Ragged(of_kept, values.offsets)
        full = np.zeros(len(row), np.int64)
        full[expressed] = of_kept
        return Ragged(full, values.offsets)

    return BinnedValues(with_zeros(bins), with_zeros(lower), with_zeros(upper), edges)


def _choose_bins(
    lower: Ragged, upper: NDArray[np.int64], ties: Ties, draws: Draws | None, cell_ids: Sequence[str | int] | None
) -> NDArray[np.int64]:
    lowest = np.minimum(lower.values + 1, upper)
    fixed = {"upper": upper, "lower": lowest, "middle": (lowest + upper) // 2}
    if ties in fixed:
        return fixed[ties]
    if draws is None or cell_ids is None or len(cell_ids) != len(lower):
        raise ValueError(
            'Random bins need draws=, for instance CellDraws(seed), and one of cell_ids= a cell; or take ties="upper".'
        )
    rows = [draws.cell(cell_id).uniform(n) for cell_id, n in zip(cell_ids, lower.lengths.tolist(), strict=True)]
    uniform = np.concatenate(rows) if rows else np.empty(0)
    return np.ceil(uniform * (lower.values - upper) + upper).astype(np.int64)


def _bin_ends(
    values: NDArray[np.float32], offsets: NDArray[np.int64], n_edges: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Lower and upper end of each value, (n_values,), and the edges, for all cells at once.

    Once a cell's values are sorted, its edges are too, and each edge lies at or between two neighbouring values. So the
    number of edges below a value (lower end) and not above it (upper end) are running sums of the edges' places among
    the values: no search is needed.
    """
    offsets = offsets - offsets[0]
    ordered, positions = _sort_rows(values, offsets)
    previous, fraction, filled = _quantile_places(offsets, n_edges)
    following = np.minimum(previous + 1, offsets[1:][filled, None] - 1)
    left, right = ordered[previous], ordered[following]
    between = _interpolate(left, right, fraction)
    edges = np.zeros((len(filled), n_edges))
    edges[filled] = between

    # Runs of equal values, never across cells.
    begins = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    begins[offsets[:-1][filled]] = True
    run = np.cumsum(begins) - 1
    run_ends = np.append(np.flatnonzero(begins), len(ordered))
    # Number of values of all cells so far that are below an edge, and that are not above it.
    on_left, on_right = between == left, between == right
    below = np.where(on_left, run_ends[run[previous]], np.where(on_right, run_ends[run[following]], following))
    up_to = np.where(on_left, run_ends[run[previous] + 1], np.where(on_right, run_ends[run[following] + 1], following))

    before = np.repeat(np.cumsum(filled) - 1, np.diff(offsets)) * n_edges
    upper_sorted = np.cumsum(np.bincount(below.ravel(), minlength=len(ordered) + 1))[: len(ordered)] - before
    lower_sorted = np.cumsum(np.bincount(up_to.ravel(), minlength=len(ordered) + 1))[: len(ordered)] - before
    lower, upper = np.empty_like(lower_sorted), np.empty_like(upper_sorted)
    lower[positions], upper[positions] = lower_sorted, upper_sorted
    return lower, upper, edges


def _sort_rows(
    values: NDArray[np.float32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sort each row; also the position that each sorted value had.

    One integer holds a float32, its bits turned so that they sort like the number, and its position: sorting integers
    is faster than an argsort, and exact.
    """
    bits = values.view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    bits = np.where(negative, ~bits, bits | np.uint32(1 << 31))
    keys = bits.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(keys), dtype=np.uint64)
    for start, stop in pairwise(offsets.tolist()):
        keys[start:stop].sort()
    positions = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return values[positions], positions


def _quantile_places(
    offsets: NDArray[np.int64], n_edges: int
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_]]:
    """Where the edges lie among the sorted values of all cells.

    Returns the index before each edge and the fraction of the way to the next, (n_filled, n_edges), and which rows are
    filled, (n_rows,).
    """
    lengths = np.diff(offsets)
    filled = lengths > 0
    place = (lengths[filled, None] - 1) * np.linspace(0, 1, n_edges)
    whole = np.floor(place)
    return offsets[:-1][filled, None] + whole.astype(np.int64), place - whole, filled


def _interpolate(
    left: NDArray[np.float32], right: NDArray[np.float32], fraction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate as ``numpy.quantile`` rounds: the difference in float32, then in float64 from the nearer end."""
    step = right - left
    return np.where(fraction < 0.5, left + step * fraction, right - step * (1 - fraction))
