"""The check that all expression values pass before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scfm_hf.cells.expression import LARGEST_LOG, measure_expression
from scfm_hf.cells.gene_names import refuse_transposed
from scfm_hf.cells.matrix import CellMatrix, raw_of
from scfm_hf.errors import ExpressionError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.cells.expression import ExpressionReport, Offenders

Expects = Literal["counts", "log", "any"]
"""What the values of an input must be: raw counts, log-normalised, or anything finite that is not negative."""

_SHOWN = 3
# A fraction as small as this is the noise of a computation, such as undoing a normalisation.
_ROUNDING_NOISE = 1e-2
# Where the values of another place are looked at for advice: the first cells tell.
_LOOKED_AT = 2048


def check_expression(
    matrix: CellMatrix, *, expects: Expects = "counts", empty_cells: Literal["raise", "keep"] = "raise"
) -> ExpressionReport:
    """Check all values in one pass, and sum them on the way.

    Parameters
    ----------
    matrix
        The values.
    expects
        What they must be: ``"counts"`` whole numbers, ``"log"`` not whole numbers only and none too large for a
        logarithm, ``"any"`` either; never negative, NaN or infinite.
    empty_cells
        ``"keep"`` reports cells whose values are all zero instead of raising.

    Returns
    -------
    Totals of cells and genes, and the empty cells.

    Raises
    ------
    ExpressionError
        If values are negative, not finite or of another kind, a cell is empty, or there is no cell or no gene.
    GeneIdError
        If cells are empty because the matrix is transposed.
    """
    if not matrix.n_cells or not matrix.n_genes:
        raise ExpressionError(
            f"There is nothing to read: {matrix.place} has {matrix.n_cells:,} cells and {matrix.n_genes:,} genes. "
            "Look at the filters that were applied before."
        )
    report = measure_expression(matrix)
    _refuse_impossible_values(matrix, report)
    if expects == "counts" and report.fractions.n_values:
        _refuse_fractions(matrix, report)
    if expects == "log":
        _refuse_what_is_no_logarithm(matrix, report)
    if len(report.empty_cells) and empty_cells == "raise":
        refuse_transposed(matrix)
        _refuse_empty_cells(matrix, report.empty_cells)
    return report


def _refuse_impossible_values(matrix: CellMatrix, report: ExpressionReport) -> None:
    if report.not_finite.n_values:
        raise ExpressionError(
            f"{_found(matrix, report.not_finite)} NaN or infinite. Find out where they come from; a gene that was not "
            "seen in a cell has the value 0."
        )
    if report.negative.n_values:
        raise ExpressionError(
            f"{_found(matrix, report.negative)} negative, as after scaling, regression or batch correction. "
            f"{_where_else(matrix, 'counts')}"
        )


def _refuse_fractions(matrix: CellMatrix, report: ExpressionReport) -> None:
    looks = "log-normalised" if report.kind == "log" else "normalised"
    message = (
        f"The model takes raw counts, and {_found(matrix, report.fractions)} not whole numbers: they look {looks}."
    )
    if report.largest_fraction < _ROUNDING_NOISE:
        message = (
            f"The model takes raw counts, and {_found(matrix, report.fractions)} not whole numbers, though all are "
            f"within {report.largest_fraction:.1g} of one. If this is the noise of a computation, round a copy with "
            "numpy.rint."
        )
    raise ExpressionError(f"{message} {_where_else(matrix, 'counts')}")


def _refuse_what_is_no_logarithm(matrix: CellMatrix, report: ExpressionReport) -> None:
    if report.kind == "counts":
        found = f"all values of {matrix.place} are whole numbers (the largest is {report.largest:g}), as raw counts are"
    elif report.largest > LARGEST_LOG:
        found = f"the largest value of {matrix.place} is {report.largest:g}, too large for a logarithm"
    else:
        return
    raise ExpressionError(
        f"The model takes log-normalised values, but {found}. {_where_else(matrix, 'log')} Or normalise a copy: "
        "scanpy.pp.normalize_total(adata, target_sum=1e4); scanpy.pp.log1p(adata)."
    )


def _refuse_empty_cells(matrix: CellMatrix, empty: NDArray[np.int64]) -> None:
    first = ", ".join(f"{matrix.cell_ids[row]} (row {row})" for row in empty[:_SHOWN])
    raise ExpressionError(
        f"{len(empty):,} of {matrix.n_cells:,} cells have no count at all in {matrix.place} (first: {first}). Remove "
        "them with scanpy.pp.filter_cells(adata, min_counts=1), or keep them, without a result, with "
        'empty_cells="keep".'
    )


def _found(matrix: CellMatrix, offenders: Offenders) -> str:
    """How many values of which cells and genes, as the subject of a sentence."""
    first = "; ".join(
        f"{value:g} in cell {matrix.cell_ids[row]} (row {row}), gene {matrix.gene_names[column]}"
        for row, column, value in offenders.examples
    )
    return (
        f"{offenders.n_values:,} values in {offenders.n_cells:,} of {matrix.n_cells:,} cells of {matrix.place} "
        f"(first: {first}) are"
    )


def _where_else(matrix: CellMatrix, kind: Literal["counts", "log"]) -> str:
    """Where else in the AnnData values of a kind are, in words."""
    adata = matrix.adata
    others = [name for name, options in _places(adata) if _looks_like(adata, kind, options)]
    wanted = "raw counts" if kind == "counts" else "log-normalised values"
    if others:
        return f"This AnnData holds {wanted} elsewhere: pass {' or '.join(others)}."
    return f"No other place of this AnnData (X, layers, raw) holds {wanted}."


def _places(adata: AnnData) -> list[tuple[str, dict[str, Any]]]:
    """Every place of values: how to ask for it, in words and as options."""
    places: list[tuple[str, dict[str, Any]]] = [(f"layer={name!r}", {"layer": name}) for name in adata.layers]
    if raw_of(adata) is not None:
        places.append(("use_raw=True", {"use_raw": True}))
    return [*places, ("layer=None (X)", {})]


def _looks_like(adata: AnnData, kind: str, options: dict[str, Any]) -> bool:
    """Whether the first cells of a place hold such values; the place that was checked does not."""
    try:
        return measure_expression(CellMatrix(adata, **options), n_cells=_LOOKED_AT).kind == kind
    except ExpressionError:  # no such place, or no numbers
        return False
