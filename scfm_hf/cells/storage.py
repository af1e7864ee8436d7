"""Reads rows of a matrix however it is stored: CSR, CSC or dense, in memory or on disk, of any numeric type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scfm_hf.errors import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Values of a CSC matrix on disk that are held at a time, about 1 GB with their positions; each takes a sweep.
_CSC_BAND = 2**25
# Values that are read at a time of a dense matrix, and of a CSC matrix on disk.
_PIECE = 2**22


def read_rows(
    values: Any, rows: NDArray[np.int64], columns: NDArray[np.int64] | None, *, block_size: int
) -> Iterator[sparse.csr_array]:
    """Read rows of a matrix, a block at a time.

    CSR and dense matrices on disk are read block by block. CSC on disk is swept from its first to its last column as
    often as its rows need to pass through memory in parts: once for a matrix of up to 33 million values.

    Parameters
    ----------
    values
        The matrix: of NumPy or SciPy, or on disk through h5py, zarr or anndata. It is not changed.
    rows
        Rows in the order wanted, (n_rows,); they may repeat.
    columns
        Columns in the order wanted; None for all.
    block_size
        Rows a block; the last one may have fewer.

    Yields
    ------
    Canonical CSR (indices sorted, duplicates summed, no explicit zeros) that shares no memory with ``values``.
    float32 and float64 stay; whole numbers and booleans become int64, float16 float32.

    Raises
    ------
    ExpressionError
        If the matrix is of a type that cannot be read, or holds no numbers.
    """
    if isinstance(values, CSCDataset):
        parts = _from_csc_on_disk(_Compressed.on_disk(values), rows, block_size)
    elif isinstance(values, CSRDataset):
        parts = _from_csr(_Compressed.on_disk(values), rows, block_size)
    elif sparse.issparse(values):
        if values.format != "csr":
            every_row = np.array_equal(rows, np.arange(values.shape[0]))
            values = (values if every_row else values.tocsc()[rows]).tocsr()
            rows = np.arange(len(rows))
        parts = _from_csr(_Compressed(values.data, values.indices, values.indptr, values.shape[1]), rows, block_size)
    elif _is_array(values):
        parts = _from_dense(values, rows, columns, block_size)
        columns = None
    else:
        raise ExpressionError(
            f"Values of type {type(values).__module__}.{type(values).__name__} cannot be read. Turn them into a NumPy "
            "array or a SciPy CSR matrix first (adata.to_memory() does so for lazy arrays)."
        )
    for part in parts:
        block = part if columns is None else part[:, columns]
        block.sum_duplicates()
        block.eliminate_zeros()
        yield block


class _Compressed(NamedTuple):
    """The arrays of a CSR or CSC matrix; ``data`` and ``indices`` may lie on disk."""

    data: Any
    indices: Any
    indptr: NDArray[Any]
    n_minor: int

    @classmethod
    def on_disk(cls, values: CSRDataset | CSCDataset) -> _Compressed:
        group, n_minor = values.group, values.shape[1 if isinstance(values, CSRDataset) else 0]
        return cls(group["data"], group["indices"], np.asarray(group["indptr"][:]), n_minor)


def _from_csr(stored: _Compressed, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_array]:
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size]
        spans = [slice(stored.indptr[first], stored.indptr[stop]) for first, stop in _runs(block)]
        lengths = stored.indptr[block + 1] - stored.indptr[block]
        yield sparse.csr_array(
            (
                _numbers(_concatenate([stored.data[span] for span in spans])),
                _concatenate([stored.indices[span] for span in spans]).copy(),
                np.concatenate([[0], np.cumsum(lengths)]),
            ),
            shape=(len(block), stored.n_minor),
        )


def _from_csc_on_disk(stored: _Compressed, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_array]:
    density = max(1.0, stored.indptr[-1] / max(1, stored.n_minor))
    band_size = max(1, int(_CSC_BAND / density) // block_size) * block_size
    for start in range(0, len(rows), band_size):
        band = rows[start : start + band_size]
        unique, places = np.unique(band, return_inverse=True)
        swept = _sweep(stored, unique)
        for block in np.split(places, range(block_size, len(band), block_size)):
            yield swept[block]


def _sweep(stored: _Compressed, rows: NDArray[np.int64]) -> sparse.csr_array:
    """Collect rows (ascending, each once) of a CSC matrix by going through its columns."""
    place = np.full(stored.n_minor, -1, np.int64)
    place[rows] = np.arange(len(rows))
    pieces = []
    n_columns = len(stored.indptr) - 1
    first = 0
    while first < n_columns:
        # As many columns as fit a piece, but one at least.
        last = int(np.searchsorted(stored.indptr, stored.indptr[first] + _PIECE, side="right")) - 1
        last = min(max(last, first + 1), n_columns)
        span = slice(stored.indptr[first], stored.indptr[last])
        of_row = place[stored.indices[span]]
        kept = of_row >= 0
        offsets = np.concatenate([[0], np.cumsum(kept)])[stored.indptr[first : last + 1] - stored.indptr[first]]
        piece = (_numbers(stored.data[span])[kept], of_row[kept], offsets)
        pieces.append(sparse.csc_array(piece, shape=(len(rows), last - first)))
        first = last
    if not pieces:
        return sparse.csr_array((len(rows), 0))
    return sparse.hstack(pieces, format="csc").tocsr()


def _from_dense(
    values: Any, rows: NDArray[np.int64], columns: NDArray[np.int64] | None, block_size: int
) -> Iterator[sparse.csr_array]:
    piece_size = max(1, _PIECE // max(1, values.shape[1]))
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size]
        pieces = []
        for piece in np.split(block, range(piece_size, len(block), piece_size)):
            dense = _concatenate([np.asarray(values[first:stop]) for first, stop in _runs(piece)])
            pieces.append(sparse.csr_array(_numbers(dense if columns is None else dense[:, columns])))
        yield sparse.vstack(pieces, format="csr")


def _is_array(values: Any) -> bool:
    """Whether this is a dense matrix whose rows can be taken by slices as NumPy arrays."""
    if isinstance(values, np.ndarray):
        return not isinstance(values, np.ma.MaskedArray)
    return type(values).__module__.partition(".")[0] in ("h5py", "zarr")


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Split rows into runs of consecutive ones: (first, last + 1) each."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, breaks) if len(run)]


def _concatenate(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Copy of the values in a type that SciPy can compute with and that sums of duplicates do not overflow."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        return values.astype(np.float32 if size <= 4 else np.float64)
    if kind == "u" and size == 8 and values.size and values.max() > np.iinfo(np.int64).max:
        return values.astype(np.float64)
    if kind in "biu":
        return values.astype(np.int64)
    raise ExpressionError(
        f"The values are of type {values.dtype}, which is not a real number. Convert them: adata.X.astype('float32')."
    )
