"""Measures the expression values of all cells in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from scfm_hf.cells.matrix import CellBlock, CellMatrix

ValueKind = Literal["counts", "log", "normalised", "negative", "not finite", "nothing"]
"""What values are: whole numbers; fractions as small as logarithms; other fractions; or what is wrong with them."""

LARGEST_LOG = 50.0
"""No count has a natural logarithm as large as this (5 x 10^21 molecules)."""

CELLS_AT_A_TIME = 256
"""Cells measured together: so few that what is made of their values stays in the processor's cache."""

_SHOWN = 3


@dataclass
class Offenders:
    """Values that are not what they should be: how many, and the first of them in the order of the cells.

    Parameters
    ----------
    n_values, n_cells
        How many values, in how many cells.
    examples
        The first of them: (row, column, value).
    """

    n_values: int = 0
    n_cells: int = 0
    examples: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, block: CellBlock, wrong: NDArray[np.bool_]) -> None:
        """Count the wrong ones among the stored values of a block."""
        if not wrong.any():
            return
        counts, places = block.counts, np.flatnonzero(wrong)
        rows = np.searchsorted(counts.indptr, places, side="right") - 1
        self.n_values += len(places)
        self.n_cells += len(np.unique(rows))
        for place, row in zip(places[:_SHOWN], rows, strict=False):
            if len(self.examples) < _SHOWN:
                value = float(counts.data[place])
                self.examples.append((block.rows.start + int(row), int(counts.indices[place]), value))


@dataclass(frozen=True, kw_only=True)
class ExpressionReport:
    """What one pass over all values found.

    Parameters
    ----------
    totals, n_genes
        Sum and number of the non-zero values of each cell, float64 and int64, (n_cells,).
    gene_totals
        Sum of each column, float64, (n_genes,).
    subset_totals
        Sum of each cell over the columns asked for, float64, (n_cells,); zeros if none were.
    largest
        The largest value, 0 if all are zero.
    not_finite, negative, fractions
        Values that are NaN or infinite, below zero, not whole.
    largest_fraction
        Largest distance of a value from a whole number.
    """

    totals: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    gene_totals: NDArray[np.float64]
    subset_totals: NDArray[np.float64]
    largest: float
    not_finite: Offenders
    negative: Offenders
    fractions: Offenders
    largest_fraction: float

    @property
    def whole_numbers(self) -> bool:
        """Whether all values are whole."""
        return self.fractions.n_values == 0 and self.not_finite.n_values == 0

    @property
    def empty_cells(self) -> NDArray[np.int64]:
        """Rows without a value other than zero."""
        return np.flatnonzero(self.n_genes == 0)

    @property
    def kind(self) -> ValueKind:
        """What the values are. Fractions may be logarithms as long as none is too large for one."""
        if self.not_finite.n_values:
            return "not finite"
        if self.negative.n_values:
            return "negative"
        if not self.n_genes.any():
            return "nothing"
        if self.whole_numbers:
            return "counts"
        return "log" if self.largest <= LARGEST_LOG else "normalised"


def measure_expression(
    matrix: CellMatrix, *, subset: NDArray[np.bool_] | None = None, n_cells: int | None = None
) -> ExpressionReport:
    """Go once over all values, a block of cells at a time; whatever they are, nothing is raised.

    Parameters
    ----------
    matrix
        The values.
    subset
        Columns whose sum is wanted for each cell as well, (n_genes,).
    n_cells
        Look at the first cells only; the others then count as empty.
    """
    totals, subset_totals = np.zeros(matrix.n_cells), np.zeros(matrix.n_cells)
    n_genes, gene_totals = np.zeros(matrix.n_cells, np.int64), np.zeros(matrix.n_genes)
    largest = largest_fraction = 0.0
    not_finite, negative, fractions = Offenders(), Offenders(), Offenders()
    for block in matrix.blocks(CELLS_AT_A_TIME):
        if n_cells is not None and block.rows.start >= n_cells:
            break
        counts = block.counts
        values = counts.data
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            not_finite.add(block, ~finite)
            with np.errstate(invalid="ignore"):  # infinity less infinity
                distance = np.abs(values - np.rint(values))
            distance[~finite] = 0
            fractions.add(block, distance > 0)
            largest_fraction = max(largest_fraction, float(distance.max(initial=0)))
            largest = max(largest, float(values.max(initial=0, where=finite)))
        else:
            largest = max(largest, float(values.max(initial=0)))
        negative.add(block, values < 0)
        totals[block.rows] = counts @ np.ones(matrix.n_genes)
        if subset is not None:
            subset_totals[block.rows] = counts @ subset.astype(np.float64)
        n_genes[block.rows] = np.diff(counts.indptr)
        gene_totals += _column_sums(counts)
    return ExpressionReport(
        totals=totals,
        n_genes=n_genes,
        gene_totals=gene_totals,
        subset_totals=subset_totals,
        largest=largest,
        not_finite=not_finite,
        negative=negative,
        fractions=fractions,
        largest_fraction=largest_fraction,
    )


def _column_sums(counts: sparse.csr_array) -> NDArray[np.float64]:
    return np.bincount(counts.indices, weights=counts.data, minlength=counts.shape[1]).astype(np.float64, copy=False)
