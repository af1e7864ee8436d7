"""One file of a corpus, brought to the vocabulary that all of them share."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scfm_hf.cells import CellMatrix, check_identifiers, choose_gene_column
from scfm_hf.data.cell_files import StoredCells, open_cells
from scfm_hf.data.counts import counts_of
from scfm_hf.errors import CorpusError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.genes import GeneMapper, GeneMapping

# Blocks of rows that are looked at when a file is opened, evenly spread, and their size.
_SAMPLED_BLOCKS, _SAMPLED_ROWS = 4, 64
# Rows of a dense matrix that are counted at a time.
_COUNTED_ROWS = 256
# Files that a process keeps open at a time.
_OPEN_FILES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How the files of a corpus are read; see :func:`scfm_hf.load_corpus`."""

    layer: str | None = None
    use_raw: bool = False
    gene_column: str | None = None
    min_overlap: float = 0.5

    def open(self, place: str) -> StoredCells:
        """Open a file that holds at least one cell and one gene.

        Raises
        ------
        CorpusError
            If it cannot be read or holds none.
        """
        cells = open_cells(place, layer=self.layer, use_raw=self.use_raw)
        if not cells.n_cells or not len(cells.var):
            cells.close()
            raise CorpusError(f"{place} is empty: it has {cells.n_cells:,} cells and {len(cells.var):,} genes.")
        return cells


@dataclass(frozen=True, kw_only=True, eq=False)
class CorpusFile:
    """A file whose genes are matched to the vocabulary.

    Parameters
    ----------
    place
        Path or URL.
    n_cells
        Its cells.
    gene_column
        Column of var that names its genes.
    mapping
        Its columns in the vocabulary, with the report.
    digest
        sha256 of its shape, genes, row offsets and some of its counts: whether it is the same file when a run goes on.
    """

    place: str
    n_cells: int
    gene_column: str
    mapping: GeneMapping
    digest: str


class OpenFiles:
    """The files of a corpus, opened when needed, in each process for itself.

    Parameters
    ----------
    files
        In their order.
    reading
        How to open them.
    """

    def __init__(self, files: Sequence[CorpusFile], reading: Reading) -> None:
        self._files, self._reading = files, reading
        self._process, self._open = os.getpid(), OrderedDict[int, StoredCells]()

    def __getitem__(self, number: int) -> StoredCells:
        if self._process != os.getpid():
            # Handles of the process that forked this one must not be used here, nor closed.
            self._process, self._open = os.getpid(), OrderedDict()
        if number not in self._open:
            self._open[number] = self._reopened(number)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": self._files, "_reading": self._reading, "_process": -1, "_open": OrderedDict()}

    def _reopened(self, number: int) -> StoredCells:
        file = self._files[number]
        cells = self._reading.open(file.place)
        if (cells.n_cells, len(cells.var)) != (file.n_cells, len(file.mapping.indices)):
            raise CorpusError(f"{file.place} was changed while it was being read. Load the corpus again.")
        return cells


def corpus_file(cells: StoredCells, mapper: GeneMapper, reading: Reading) -> CorpusFile:
    """Match the genes of a file to the vocabulary, after a look at some of its cells.

    Raises
    ------
    CorpusError
        If the values are no counts, or the genes are not those of the vocabulary.
    """
    sample = sampled_cells(cells)
    vocabulary = mapper.vocabulary
    try:
        gene_column = reading.gene_column or choose_gene_column(
            sample, id_kind=vocabulary.id_kind, species=vocabulary.species
        )
        matrix = CellMatrix(sample, gene_column=gene_column)
        mapping = mapper.map(matrix.gene_names.tolist(), counts_per_gene=np.asarray(sample.X.sum(axis=0)).ravel())
        check_identifiers(matrix, mapping, vocabulary, min_overlap=reading.min_overlap)
    except ScfmError as error:
        raise CorpusError(f"{cells.place}: {error}") from error
    digest = sha256(f"{cells.n_cells} {len(cells.var)}\n".encode() + "\n".join(map(str, cells.var.index)).encode())
    for part in (cells.rows.structure(), sample.X.data.tobytes(), sample.X.indices.astype(np.int64).tobytes()):
        digest.update(part)
    return CorpusFile(
        place=cells.place, n_cells=cells.n_cells, gene_column=gene_column, mapping=mapping, digest=digest.hexdigest()
    )


def row_lengths(cells: StoredCells) -> NDArray[np.integer]:
    """Values of each cell of a file, about its tokens, int32, (n_cells,); a dense matrix is read for it."""
    known = cells.rows.lengths()
    if known is None:
        known = np.concatenate(
            [
                np.diff(cells.rows.read(start, min(start + _COUNTED_ROWS, cells.n_cells)).offsets)
                for start in range(0, cells.n_cells, _COUNTED_ROWS)
            ]
        )
    return known.astype(np.int32)


def sampled_cells(cells: StoredCells) -> AnnData:
    """Some cells from the beginning to the end of a file, in memory, with all of its var.

    Raises
    ------
    CorpusError
        If their values are no counts.
    """
    last = max(0, cells.n_cells - _SAMPLED_ROWS)
    parts, ids = [], []
    for start in np.unique(np.linspace(0, last, _SAMPLED_BLOCKS).astype(int)).tolist():
        stop = min(start + _SAMPLED_ROWS, cells.n_cells)
        rows = counts_of(cells, start, stop)
        parts.append(sparse.csr_array((rows.values, rows.columns, rows.offsets), (stop - start, len(cells.var))))
        ids.append(cells.cell_ids(start, stop))
    stacked = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    with anndata.settings.override(check_uniqueness=False):
        return anndata.AnnData(stacked, obs=pd.DataFrame(index=np.concatenate(ids).astype(object)), var=cells.var)
