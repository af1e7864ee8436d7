"""Rows of different lengths as one flat array: what every tokenizer of this package returns, before padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow
    from numpy.typing import ArrayLike, DTypeLike, NDArray


@dataclass(frozen=True, eq=False)
class Ragged:
    """Values of all rows one after the other, and where each row starts.

    Parameters
    ----------
    values
        Values of all rows, (n_values,), any dtype.
    offsets
        Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``; int64, (n_rows + 1,), from 0 to n_values, never falling.

    Raises
    ------
    ValueError
        If the offsets do not fit the values.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values))
        object.__setattr__(self, "offsets", np.asarray(self.offsets, np.int64))
        offsets = self.offsets
        if self.values.ndim != 1 or offsets.ndim != 1:
            raise ValueError(f"Values and offsets are flat; got {self.values.ndim} and {offsets.ndim} dimensions.")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(self.values) or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"Offsets must rise from 0 to the number of values, {len(self.values)}; got {offsets[:5]}..."
            )

    @classmethod
    def from_lengths(cls, values: ArrayLike, lengths: ArrayLike) -> Ragged:
        """From flat values and the length of each row."""
        return cls(np.asarray(values), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def from_rows(cls, rows: Sequence[ArrayLike], dtype: DTypeLike | None = None) -> Ragged:
        """From one array a row; ``dtype`` is needed where there may be no row."""
        arrays = [np.asarray(row, dtype) for row in rows]
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype)
        return cls.from_lengths(values, [len(row) for row in arrays])

    @classmethod
    def concatenate(cls, parts: Iterable[Ragged]) -> Ragged:
        """The rows of all parts, in order."""
        parts = list(parts)
        return cls.from_lengths(
            np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts])
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ragged):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of values of each row, int64, (n_rows,)."""
        return np.diff(self.offsets)

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """Row that each value belongs to, int64, (n_values,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Place of each value within its row, int64, (n_values,)."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    def row(self, index: int) -> NDArray[Any]:
        """One row, a view."""
        index = range(len(self))[index]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: ArrayLike) -> Ragged:
        """These rows, in this order."""
        rows = np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        taken = Ragged.from_lengths(np.arange(lengths.sum()), lengths)
        return Ragged(self.values[taken.positions + np.repeat(self.offsets[:-1][rows], lengths)], taken.offsets)

    def head(self, length: int) -> Ragged:
        """The first values of each row, at most ``length``."""
        if not len(self) or self.lengths.max() <= length:
            return self
        return Ragged.from_lengths(self.values[self.positions < length], np.minimum(self.lengths, length))

    def surround(self, before: ArrayLike = (), after: ArrayLike = ()) -> Ragged:
        """Put the same values before and after every row, as special tokens are; the dtype stays."""
        before, after = np.asarray(before, self.values.dtype), np.asarray(after, self.values.dtype)
        if not len(before) and not len(after):
            return self
        offsets = self.offsets + np.arange(len(self) + 1) * (len(before) + len(after))
        values = np.empty(offsets[-1], self.values.dtype)
        values[
            np.arange(len(self.values)) + np.repeat(offsets[:-1] - self.offsets[:-1] + len(before), self.lengths)
        ] = self.values
        values[offsets[:-1, None] + np.arange(len(before))] = before
        values[offsets[1:, None] - len(after) + np.arange(len(after))] = after
        return Ragged(values, offsets)

    def to_list(self) -> list[list[Any]]:
        """One Python list a row."""
        return [row.tolist() for row in np.split(self.values, self.offsets[1:-1])] if len(self) else []

    def to_padded(self, value: Any, length: int | None = None) -> NDArray[Any]:
        """Make a rectangle, padded on the right, (n_rows, length).

        Parameters
        ----------
        value
            What stands at padding.
        length
            Columns; None for the longest row.

        Raises
        ------
        ValueError
            If a row is longer than ``length``: nothing is cut silently.
        """
        longest = int(self.lengths.max(initial=0))
        length = longest if length is None else length
        if longest > length:
            raise ValueError(
                f"A row has {longest} values, more than the padded length {length}. Cut the rows first: head({length})."
            )
        padded = np.full((len(self), length), value, self.values.dtype)
        padded[np.arange(length) < self.lengths[:, None]] = self.values
        return padded

    def to_arrow(self) -> pyarrow.LargeListArray:
        """As an Arrow column of lists, without copying the values."""
        import pyarrow

        return pyarrow.LargeListArray.from_arrays(pyarrow.array(self.offsets), pyarrow.array(self.values))


def row_blocks(offsets: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of about ``size`` values, at least one row each: ``(first, last)``, without the last."""
    first, n_rows = 0, len(offsets) - 1
    while first < n_rows:
        last = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = min(max(last, first + 1), n_rows)
        yield first, last
        first = last
