"""Blocks of counts as a corpus gives them: checked, over the genes of its vocabulary, tidy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.stored_rows import Rows
from scfm_hf.errors import CorpusError, ScfmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells

# A value, the column and the row of a count as one whole number of 63 bits.
_VALUE_BITS, _COLUMN_BITS, _ROW_BITS = 20, 24, 19


def counts_of(cells: StoredCells, start: int, stop: int) -> Rows:
    """Read rows of a file; their values must be counts.

    Returns
    -------
    Counts as float32 (exact up to 16,777,216), without zeros.

    Raises
    ------
    CorpusError
        If the file cannot be read there, or a value is negative, not finite or not whole.
    """
    where = f"{cells.place}, rows {start} to {stop - 1}"
    try:
        rows = cells.rows.read(start, stop)
    except (ScfmError, OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
        raise CorpusError(f"{where}, cannot be read: {error}. The file is damaged, or was changed.") from error
    if len(rows.values) != rows.offsets[-1] or len(rows.columns) != rows.offsets[-1]:
        raise CorpusError(f"{where}, cannot be read: values are missing. The file is damaged, or was changed.")
    if len(rows.columns) and not 0 <= int(rows.columns.min()) <= int(rows.columns.max()) < len(cells.var):
        raise CorpusError(f"{where}: columns of values lie outside the {len(cells.var):,} genes. The file is damaged.")
    _refuse_what_is_no_count(cells, rows, start)
    values = rows.values.astype(np.float32, copy=False)
    if values.all():
        return Rows(values, rows.columns, rows.offsets)
    return kept_values(Rows(values, rows.columns, rows.offsets), values != 0)


def kept_values(rows: Rows, kept: NDArray[np.bool_]) -> Rows:
    """Some of the values of rows."""
    return Rows(rows.values[kept], rows.columns[kept], np.concatenate([[0], np.cumsum(kept)])[rows.offsets])


def kept_rows(rows: Rows, kept: NDArray[np.bool_]) -> Rows:
    """Some of the rows."""
    lengths = np.diff(rows.offsets)
    of_kept = np.repeat(kept, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
    return Rows(rows.values[of_kept], rows.columns[of_kept], offsets)


def totals_of(rows: Rows) -> NDArray[np.float64]:
    """Sum of each row, float64, (n_rows,)."""
    sums = np.concatenate([[0.0], np.cumsum(rows.values, dtype=np.float64)])
    return sums[rows.offsets[1:]] - sums[rows.offsets[:-1]]


def harmonised(rows: Rows, targets: NDArray[np.int32]) -> Rows:
    """Put counts over the columns of a file over those of the vocabulary.

    Parameters
    ----------
    rows
        Counts without zeros.
    targets
        Column in the vocabulary of each column of the file, -1 where it is unknown, (n_columns,).

    Returns
    -------
    The counts of known genes, columns ascending in each row, each once: columns of one gene are summed.
    """
    columns = targets[rows.columns]
    mapped = Rows(rows.values, columns, rows.offsets)
    known = columns >= 0
    if not known.all():
        mapped = kept_values(mapped, known)
    rising = mapped.columns[1:] > mapped.columns[:-1]
    ends = mapped.offsets[1:-1]
    rising[ends[(ends > 0) & (ends < len(mapped.columns))] - 1] = True
    return mapped if rising.all() else _sorted(mapped)


def _sorted(rows: Rows) -> Rows:
    """Sort the columns of each row and sum those that come twice."""
    row = np.repeat(np.arange(len(rows.offsets) - 1), np.diff(rows.offsets))
    fits = len(rows.offsets) <= 2**_ROW_BITS and rows.columns.max() < 2**_COLUMN_BITS
    if fits and rows.values.max() < 2**_VALUE_BITS:
        # One sort of packed numbers is several times as quick as one that gives positions.
        packed = (row << (_COLUMN_BITS + _VALUE_BITS)) | (rows.columns.astype(np.int64) << _VALUE_BITS)
        packed |= rows.values.astype(np.int64)
        packed.sort()
        values = (packed & (2**_VALUE_BITS - 1)).astype(np.float32)
        columns = ((packed >> _VALUE_BITS) & (2**_COLUMN_BITS - 1)).astype(np.int32)
    else:
        order = np.lexsort((rows.columns, row))
        values, columns = rows.values[order], rows.columns[order]
    new = np.ones(len(columns), bool)
    new[1:] = (columns[1:] != columns[:-1]) | (row[1:] != row[:-1])
    if new.all():
        return Rows(values, columns, rows.offsets)
    first = np.flatnonzero(new)
    offsets = np.concatenate([[0], np.cumsum(new)])[rows.offsets]
    return Rows(np.add.reduceat(values, first), columns[first], offsets)


def _refuse_what_is_no_count(cells: StoredCells, rows: Rows, start: int) -> None:
    values = rows.values
    if values.dtype.kind not in "fiub":
        raise CorpusError(f"{cells.place} holds values of type {values.dtype}, which are no counts.")
    if values.dtype.kind in "ub" or not len(values):
        return
    # The difference of a value that is not finite from itself is not a number, which counts as true.
    with np.errstate(invalid="ignore"):
        whole = values.dtype.kind == "i" or not (values - np.floor(values)).any()
    if not whole or values.min() < 0:
        raise CorpusError(_no_counts(cells, rows, start))


def _no_counts(cells: StoredCells, rows: Rows, start: int) -> str:
    values = rows.values
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= 0) & (values - np.floor(values) == 0))
    first: Any = np.flatnonzero(wrong)[0]
    row = start + int(np.searchsorted(rows.offsets, first, side="right")) - 1
    gene = cells.var.index[int(rows.columns[first])]
    kind = "negative" if values[first] < 0 else "not whole" if np.isfinite(values[first]) else "not finite"
    layers = ", ".join(map(repr, cells.layers))
    advice = f"Name the layer that holds raw counts with layer= (it has {layers})" if layers else "It has no layers"
    return (
        f"{cells.place} does not hold raw counts: {int(wrong.sum()):,} of {len(values):,} values of rows {start} to "
        f"{start + len(rows.offsets) - 2} are {kind}, the first {values[first]:g} in row {row}, gene {gene}, as after "
        f"normalisation or scaling. {advice}; use_raw=True takes the counts of raw."
    )
