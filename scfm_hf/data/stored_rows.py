"""Reads runs of rows of a matrix on disk or in memory, as flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from scfm_hf.data.stored_values import quick_values
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = {"csr_matrix": "csr", "csr": "csr", "csc_matrix": "csc", "csc": "csc", "array": "dense"}
"""What the attributes of a stored matrix say, in this and earlier versions of anndata -> how it is laid out."""


class Rows(NamedTuple):
    """Contiguous rows: their values in the type of the file, and where they stand.

    Parameters
    ----------
    values
        Values of all rows, (n_values,).
    columns
        Column of each value, integers, (n_values,); the columns of a row need not be sorted.
    offsets
        Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``, int64, (n_rows + 1,).
    """

    values: NDArray[Any]
    columns: NDArray[Any]
    offsets: NDArray[np.int64]


class StoredRows(Protocol):
    """A matrix, cells in rows, whose contiguous rows can be read."""

    n_rows: int
    n_columns: int

    def read(self, start: int, stop: int) -> Rows:
        """Rows from ``start`` to before ``stop``."""

    def lengths(self) -> NDArray[np.int64] | None:
        """Values of each row, (n_rows,); None if only reading them all would tell."""

    def structure(self) -> bytes | memoryview:
        """What tells this matrix from another of the same shape at little cost."""


class CompressedRows:
    """A matrix stored row after row (CSR); values and columns may lie on disk, row offsets are held in memory.

    Parameters
    ----------
    values, columns
        Sliceable: NumPy, h5py or zarr.
    offsets
        Where each row starts, (n_rows + 1,).
    n_columns
        Columns of the matrix.

    Raises
    ------
    CorpusError
        If the offsets do not fit the values.
    """

    def __init__(self, values: Any, columns: Any, offsets: Any, n_columns: int) -> None:
        self._values, self._columns = quick_values(values), quick_values(columns)
        self._offsets = np.asarray(offsets[:], np.int64)
        self.n_rows, self.n_columns = len(self._offsets) - 1, int(n_columns)
        ends = (int(self._offsets[0]), int(self._offsets[-1])) if len(self._offsets) else (-1, -1)
        n_values, n_stored_columns = int(values.shape[0]), int(columns.shape[0])
        if ends != (0, n_values) or n_values != n_stored_columns or (self._offsets[1:] < self._offsets[:-1]).any():
            raise CorpusError(
                f"its row offsets run from {ends[0]} to {ends[1]}, but there are {n_values} values and "
                f"{n_stored_columns} columns: the file was not written to its end"
            )

    def read(self, start: int, stop: int) -> Rows:
        """Rows from ``start`` to before ``stop``."""
        offsets = self._offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Rows(self._values[first:last], self._columns[first:last], offsets - first)

    def lengths(self) -> NDArray[np.int64]:
        """Values of each row."""
        return np.diff(self._offsets)

    def structure(self) -> memoryview:
        """The row offsets."""
        return self._offsets.data


class DenseRows:
    """A matrix stored with its zeros.

    Parameters
    ----------
    values
        Sliceable, (n_rows, n_columns): NumPy, h5py or zarr.
    """

    def __init__(self, values: Any) -> None:
        self._values = values
        self.n_rows, self.n_columns = map(int, values.shape)

    def read(self, start: int, stop: int) -> Rows:
        """Rows from ``start`` to before ``stop``, without their zeros."""
        dense = np.asarray(self._values[start:stop])
        rows, columns = np.nonzero(dense)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))]).astype(np.int64)
        return Rows(dense[rows, columns], columns, offsets)

    def lengths(self) -> None:
        """Not known."""

    def structure(self) -> bytes:
        """The shape."""
        return str(self._values.shape).encode()


def stored_rows(element: Any) -> StoredRows:
    """The rows of a matrix as anndata stores it, in HDF5 or zarr.

    Raises
    ------
    CorpusError
        If it is stored by columns, or is no matrix.
    """
    attributes = dict(element.attrs)
    kind = attributes.get("encoding-type", attributes.get("h5sparse_format", "array"))
    layout = LAYOUTS.get(_text(kind))
    if layout == "csr":
        shape = attributes["shape" if "shape" in attributes else "h5sparse_shape"]
        for name in ("data", "indices", "indptr"):
            _refuse_missing_chunks(name, element[name])
        return CompressedRows(element["data"], element["indices"], element["indptr"], shape[1])
    if layout == "csc":
        raise CorpusError(
            "its matrix is stored by columns (CSC), of which no few cells can be read. Write it by rows: "
            "adata.X = adata.X.tocsr(); adata.write_h5ad(...)"
        )
    if layout is None or len(getattr(element, "shape", ())) != 2:
        raise CorpusError(f"its values are no matrix (encoding {_text(kind)!r})")
    return DenseRows(element)


def _refuse_missing_chunks(name: str, array: Any) -> None:
    """Refuse an array of zarr that lacks files: zarr takes for zeros what is missing, and no chunk is all zeros."""
    n_chunks, n_there = getattr(array, "nchunks", 0), getattr(array, "nchunks_initialized", 0)
    if n_there < n_chunks:
        raise CorpusError(f"{n_chunks - n_there} of {n_chunks} chunks of its {name} are missing")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
