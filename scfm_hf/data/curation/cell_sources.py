"""Where cells to curate or compare come from: files, some rows of files, or AnnData in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from scfm_hf.data.cell_files import StoredCells, TableObs, find_cell_files
from scfm_hf.data.counts import counts_of, kept_rows
from scfm_hf.data.stored_rows import CompressedRows, DenseRows, Rows
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.data.corpus_file import Reading

# Rows read at a time: a few MiB even for deep cells.
_BLOCK = 512

Cells: TypeAlias = (
    "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, ArrayLike | None] | AnnData"
)
"""Files, folders or patterns; file -> rows (numbers or a mask, None for all); or an AnnData or a view of one."""


class Block(NamedTuple):
    """Some cells of a source.

    Parameters
    ----------
    first
        Number of the first of them among the cells of the source.
    counts
        Over the columns of the file.
    cell_ids
        Their names.
    """

    first: int
    counts: Rows
    cell_ids: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class CellSource:
    """A file of cells, some rows of one, or an AnnData.

    Parameters
    ----------
    name
        Its path or URL, or how an AnnData is called.
    open
        Opens it; whoever opens it closes it.
    chosen
        Rows that count, ascending, or whether each of them does; None for all of them.
    """

    name: str
    open: Callable[[], StoredCells]
    chosen: NDArray[Any] | None = None

    def rows_of(self, cells: StoredCells) -> NDArray[np.int64]:
        """Row in the file of each cell of the source, int64, (n_cells,).

        Raises
        ------
        CorpusError
            If the file has fewer rows than were chosen of it, or a mask is of another number of them.
        """
        if self.chosen is None:
            return np.arange(cells.n_cells)
        if self.chosen.dtype == np.bool_:
            if self.chosen.shape != (cells.n_cells,):
                raise CorpusError(f"{self.name} has {cells.n_cells:,} cells, its mask {len(self.chosen):,}.")
            return np.flatnonzero(self.chosen)
        if len(self.chosen) and self.chosen[-1] >= cells.n_cells:
            raise CorpusError(f"{self.name} has {cells.n_cells:,} cells: there is no row {self.chosen[-1]:,}.")
        return self.chosen

    def blocks(self, cells: StoredCells) -> Iterator[Block]:
        """All cells of the source, some at a time.

        Raises
        ------
        CorpusError
            If a value is no count, or the file is damaged there.
        """
        yield from _blocks(cells, self.rows_of(cells))

    def read(self, cells: StoredCells, numbers: NDArray[np.int64]) -> sparse.csr_array:
        """Some cells, by ascending number, over the columns of the file."""
        parts = [block.counts for block in _blocks(cells, self.rows_of(cells)[numbers])]
        shape = len(cells.var)
        return sparse.csr_array(
            sparse.vstack(
                [sparse.csr_array((p.values, p.columns, p.offsets), (len(p.offsets) - 1, shape)) for p in parts],
                format="csr",
            )
        )


def cell_sources(cells: Cells, reading: Reading, *, name: str = "AnnData") -> list[CellSource]:
    """List the sources that are given.

    Parameters
    ----------
    cells
        Files, rows of files, or an AnnData.
    reading
        How files are read.
    name
        What an AnnData is called.

    Raises
    ------
    CorpusError
        If a path names nothing.
    ValueError
        If rows are neither numbers nor a mask.
    """
    if hasattr(cells, "obs_names"):
        adata: Any = cells
        if getattr(adata, "isbacked", False):
            adata = adata.to_memory()
        return [CellSource(name, lambda: _in_memory(adata, name, reading))]
    if isinstance(cells, Mapping):
        places = [(find_cell_files(place), rows) for place, rows in cells.items()]
        several = [found for found, rows in places if len(found) > 1 and rows is not None]
        if several:
            raise ValueError(f"Rows can be chosen of one file each, not of {len(several[0])} files together.")
        return [_of_file(place, reading, _chosen(rows)) for found, rows in places for place in found]
    files: Any = cells
    return [_of_file(place, reading, None) for place in find_cell_files(files)]


def _of_file(place: str, reading: Reading, rows: NDArray[Any] | None) -> CellSource:
    return CellSource(place, lambda: reading.open(place), rows)


def _chosen(rows: ArrayLike | None) -> NDArray[Any] | None:
    """Numbers of rows, ascending, or a mask as it is: only the file says how long that must be."""
    if rows is None:
        return None
    given = np.asarray(rows)
    if given.dtype == np.bool_:
        return given
    if given.size and given.dtype.kind not in "iu":
        raise ValueError(f"Rows must be numbers or a mask, not {given.dtype}.")
    numbers = np.unique(given.astype(np.int64))
    if len(numbers) and numbers[0] < 0:
        raise ValueError(f"Rows must not be negative, as {numbers[0]} is.")
    return numbers


def _in_memory(adata: AnnData, name: str, reading: Reading) -> StoredCells:
    if not adata.n_obs or not adata.n_vars:
        raise CorpusError(f"{name} is empty: it has {adata.n_obs:,} cells and {adata.n_vars:,} genes.")
    values = adata.raw.X if reading.use_raw else adata.X if reading.layer is None else adata.layers[reading.layer]
    var = adata.raw.var if reading.use_raw else adata.var
    rows: CompressedRows | DenseRows
    if sparse.issparse(values):
        matrix = values.tocsr()
        rows = CompressedRows(matrix.data, matrix.indices, matrix.indptr, matrix.shape[1])
    else:
        rows = DenseRows(np.asarray(values))
    return StoredCells(name, rows, var, TableObs(adata.obs), lambda: None, tuple(map(str, adata.layers)))


def _blocks(cells: StoredCells, rows: NDArray[np.int64]) -> Iterator[Block]:
    """Rows of a file, read by stretches of it that hold any of them."""
    first = 0
    while first < len(rows):
        start = int(rows[first])
        last = int(np.searchsorted(rows, start + _BLOCK))
        wanted = rows[first:last]
        stop = int(wanted[-1]) + 1
        counts, ids = counts_of(cells, start, stop), cells.cell_ids(start, stop)
        if len(wanted) < stop - start:
            kept = np.zeros(stop - start, np.bool_)
            kept[wanted - start] = True
            counts, ids = kept_rows(counts, kept), ids[kept]
        yield Block(first, counts, ids)
        first = last
