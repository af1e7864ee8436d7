"""Blocks of counts as a corpus gives them: checked, over the genes of its vocabulary, tidy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.stored_rows import Rows
from scfm_hf.errors import CorpusError, ScfmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells

# The floats 1 and infinity as whole numbers.
_ONE, _INFINITY = (int(np.float32(number).view(np.int32)) for number in (1, np.inf))


def counts_of(cells: StoredCells, start: int, stop: int) -> Rows:
    """Read rows of a file; their values must be counts.

    Returns
    -------
    Counts as float32 (exact up to 16,777,216), without zeros; columns that no gene has are still to be found.

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
    if rows.values.dtype.kind not in "fiub":
        raise CorpusError(f"{cells.place} holds values of type {rows.values.dtype}, which are no counts.")
    values = rows.values.astype(np.float32, copy=False)
    rows = Rows(values, rows.columns, rows.offsets)
    if not len(values):
        return rows
    # As whole numbers, floats keep their order: below those of 1 are zero, fractions and, negative, what has a sign;
    # above those of infinity is what is not a number.
    bits = values.view(np.int32)
    smallest, largest = int(bits.min()), int(bits.max())
    if largest >= _INFINITY or (smallest < _ONE and not _zero_or_more(values)) or (np.floor(values) != values).any():
        raise CorpusError(_no_counts(cells, rows, start))
    return rows if smallest >= _ONE else kept_values(rows, values != 0)


def _zero_or_more(values: NDArray[np.float32]) -> bool:
    return bool(values.min() >= 0)


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


@dataclass(frozen=True, eq=False)
class Harmoniser:
    """Puts counts over the columns of a file over those of a vocabulary.

    Parameters
    ----------
    targets
        Column in the vocabulary of each column of the file, -1 where it is unknown, int32, (n_columns,).
    """

    targets: NDArray[np.int32]

    @cached_property
    def _identity(self) -> bool:
        return bool((self.targets == np.arange(len(self.targets))).all())

    @cached_property
    def _all_known(self) -> bool:
        return bool((self.targets >= 0).all())

    @cached_property
    def _in_order(self) -> bool:
        """Whether columns that ascend in the file do so in the vocabulary."""
        return bool((np.diff(self.targets[self.targets >= 0]) > 0).all())

    def __call__(self, rows: Rows) -> Rows:
        """The counts of known genes, columns ascending in each row, each once: columns of one gene are summed.

        Raises
        ------
        IndexError
            If there are values in columns that the file does not have.
        """
        if self._identity and _follows(np.greater, rows).all():
            ends = rows.offsets[1:][np.diff(rows.offsets) > 0]
            if len(ends) and (rows.columns[ends - 1].max() >= len(self.targets) or rows.columns.min() < 0):
                raise IndexError("columns out of bounds")
            return Rows(rows.values, rows.columns.astype(np.int32, copy=False), rows.offsets)
        if rows.columns.min(initial=0) < 0:
            raise IndexError("columns out of bounds")
        columns = self.targets.take(rows.columns)
        mapped = Rows(rows.values, columns, rows.offsets)
        if not self._all_known and not (known := columns >= 0).all():
            mapped = kept_values(mapped, known)
        if self._in_order and _follows(np.greater, mapped).all():
            return mapped
        mapped = _sorted(mapped)
        new = np.concatenate([[True], _follows(np.not_equal, mapped)])
        if new.all():
            return mapped
        first = np.flatnonzero(new)
        offsets = np.concatenate([[0], np.cumsum(new)])[mapped.offsets]
        return Rows(np.add.reduceat(mapped.values, first), mapped.columns[first], offsets)


def _follows(compare: np.ufunc, rows: Rows) -> NDArray[np.bool_]:
    """Whether each column but the first compares so with the one before, or begins a row."""
    follows = compare(rows.columns[1:], rows.columns[:-1])
    ends = rows.offsets[1:-1]
    follows[ends[(ends > 0) & (ends < len(rows.columns))] - 1] = True
    return follows


def _sorted(rows: Rows) -> Rows:
    """Sort the columns of each row.

    Column and value are sorted as one number, which NumPy does many times as quickly as it finds the order of columns:
    16 bits each where they fit; else 32, the value as the bits of its float, which stay whole that way.
    """
    small = rows.columns.max(initial=0) < 2**16 and rows.values.max(initial=0) < 2**16
    kind: Any = np.uint32 if small else np.uint64
    bits = kind(16 if small else 32)
    packed = rows.columns.astype(kind)
    packed <<= bits
    packed |= rows.values.astype(kind) if small else rows.values.view(np.uint32)
    for first, last in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        packed[first:last].sort()
    columns = (packed >> bits).astype(np.int32)
    packed &= kind(2 ** int(bits) - 1)
    values = packed.astype(np.float32) if small else packed.astype(np.uint32).view(np.float32)
    return Rows(values, columns, rows.offsets)


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
