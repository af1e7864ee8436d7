"""The check that all expression values pass before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scfm_hf.cells.matrix import CellMatrix
from scfm_hf.errors import ExpressionError, ScfmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.cells.matrix import CellBlock

#: What the values of an input must be: raw counts, log-normalised, or anything finite that is not negative.
Expects = Literal["counts", "log", "any"]
#: log1p of a count as large as this would need 5 x 10^21 molecules in a cell.
_LARGEST_LOG = 50.0
_SHOWN = 3


@dataclass(frozen=True)
class ExpressionReport:
    """What one pass over all values found.

    Parameters
    ----------
    totals, n_genes
        Sum and number of the non-zero values of each cell, float64 and int64, (n_cells,).
    gene_totals
        Sum of each column, float64, (n_genes,).
    whole_numbers
        Whether all values are whole.
    largest
        The largest value.
    empty_cells
        Rows without a value, int64.
    """

    totals: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    gene_totals: NDArray[np.float64]
    whole_numbers: bool
    largest: float
    empty_cells: NDArray[np.int64]


def check_expression(
    matrix: CellMatrix, *, expects: Expects = "counts", empty_cells: Literal["raise", "keep"] = "raise"
) -> ExpressionReport:
    """Check all values in one pass, and sum them on the way.

    Parameters
    ----------
    matrix
        The values.
    expects
        What they must be.
    empty_cells
        ``"keep"`` reports cells without a value instead of raising.

    Raises
    ------
    ExpressionError
        If values are negative, not finite or of another kind, a cell is empty, or there is nothing.
    """
    if not matrix.n_cells or not matrix.n_genes:
        raise ExpressionError(f"There is nothing to read: {matrix.n_cells} cells, {matrix.n_genes} genes.")
    totals, n_genes = np.zeros(matrix.n_cells), np.zeros(matrix.n_cells, np.int64)
    gene_totals, largest, whole = np.zeros(matrix.n_genes), 0.0, True
    found: dict[str, _Offenders] = {}
    for block in matrix.blocks():
        values = block.counts.data
        wrong = {"not finite (NaN or infinite)": ~np.isfinite(values)} if values.dtype.kind == "f" else {}
        if values.dtype.kind != "u":
            wrong["negative"] = values < 0
        if values.dtype.kind == "f":
            fractions = values != np.rint(values)
            whole &= not fractions.any()
            if expects == "counts":
                wrong["no whole numbers"] = fractions & np.isfinite(values)
        for what, where in wrong.items():
            found.setdefault(what, _Offenders()).add(matrix, block, where)
        largest = max(largest, float(values.max(initial=0)))
        weights = values.astype(np.float64)
        rows = np.repeat(np.arange(len(block.cell_ids)), np.diff(block.counts.indptr))
        totals[block.rows] = np.bincount(rows, weights, minlength=len(block.cell_ids))
        n_genes[block.rows] = np.diff(block.counts.indptr)
        gene_totals += np.bincount(block.counts.indices, weights, minlength=matrix.n_genes)
    for what, offenders in found.items():
        if offenders.number:
            raise ExpressionError(f"{offenders} {what}. {_advice(what, matrix)}")
    if expects == "log":
        _refuse_what_is_no_log(matrix, whole=whole, largest=largest)
    empty = np.flatnonzero(n_genes == 0)
    if len(empty) and empty_cells == "raise":
        names = ", ".join(map(str, matrix.cell_ids[empty[:_SHOWN]]))
        raise ExpressionError(
            f"{len(empty):,} of {matrix.n_cells:,} cells have no count at all (first: {names}). Remove them with "
            'scanpy.pp.filter_cells(adata, min_counts=1), or keep them, without a result, with empty_cells="keep".'
        )
    return ExpressionReport(totals, n_genes, gene_totals, whole, largest, empty)


class _Offenders:
    """How many values are wrong, and the first of them."""

    def __init__(self) -> None:
        self.number = 0
        self._examples: list[str] = []

    def add(self, matrix: CellMatrix, block: CellBlock, where: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(where)
        self.number += len(places)
        for place in places[: _SHOWN - len(self._examples)]:
            row = int(np.searchsorted(block.counts.indptr, place, side="right")) - 1
            gene = matrix.gene_names[block.counts.indices[place]]
            self._examples.append(f"{block.counts.data[place]:g} in cell {block.cell_ids[row]}, gene {gene}")

    def __str__(self) -> str:
        return f"{self.number:,} values (first: {'; '.join(self._examples)}) are"


def _advice(what: str, matrix: CellMatrix) -> str:
    if what.startswith("not finite"):
        return "Find out where they come from; a gene that was not seen has a zero, not NaN."
    kind = "look scaled or corrected" if what == "negative" else "look normalised"
    return f"The model wants raw counts, and these {kind}. {_places_with_counts(matrix)}"


def _refuse_what_is_no_log(matrix: CellMatrix, *, whole: bool, largest: float) -> None:
    if (whole and largest > 1) or largest > _LARGEST_LOG:
        kind = "whole numbers" if whole else f"as large as {largest:g}"
        raise ExpressionError(
            f"The values are {kind}, but the model wants log-normalised expression. Take a copy and normalise it: "
            "scanpy.pp.normalize_total(adata, target_sum=1e4); scanpy.pp.log1p(adata)."
        )


def _places_with_counts(matrix: CellMatrix) -> str:
    """Where else in the AnnData raw counts are, in words."""
    adata = matrix.adata
    candidates: list[tuple[str, dict[str, Any]]] = [(f"layer={name!r}", {"layer": name}) for name in adata.layers]
    if adata.raw is not None:
        candidates.append(("use_raw=True", {"use_raw": True}))
    if matrix.layer is not None or matrix.use_raw:
        candidates.append(("X (no layer=)", {}))
    good = [words for words, options in candidates if _holds_counts(CellMatrix(adata, **options))]
    if good:
        return f"There are counts elsewhere in this AnnData: use {' or '.join(good)}."
    return "No layer nor raw of this AnnData holds counts: go back to the file that does."


def _holds_counts(matrix: CellMatrix) -> bool:
    """Whether all values are whole and not negative."""
    try:
        check_expression(matrix, empty_cells="keep")
    except ScfmError:
        return False
    return True
