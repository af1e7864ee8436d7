"""Fingerprints of cells: a hash of the counts, a sketch of them, and the barcode.

A hash is a sum, modulo 2^64, of one random number for each pair of gene and count: the order of genes, the type of the
values and the format of the file do not matter. A file that lacks some genes gives its cells other sums, so each cell
also gets the sum over the genes of every other list of genes in the corpus: two copies agree over the genes that both
files have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.curation.canonical_genes import FileGenes, GeneRegistry, file_genes
from scfm_hf.errors import CorpusError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells
    from scfm_hf.data.counts import Rows
    from scfm_hf.data.curation.cell_sources import Block, CellSource

# Bits of information, about, that counts must hold to tell a cell from 10^5 others: log2(1 + count), summed over genes.
# A gene seen once holds more than one bit, one of some ten counts three to four (the entropy of a Poisson number).
_FEWEST_BITS = 48
_SKETCH_SIZE = 128
# Files with fewer genes are panels, or were cut to a few: they have no part in the search by sketches.
_WHOLE_TRANSCRIPTOME = 5000
_BARCODE = re.compile(r"[ACGT]{10,}")
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """What tells the cells of some sources from all others; a line is a cell, source after source.

    Parameters
    ----------
    sources
        Where the cells come from.
    genes
        Those of each source.
    registry
        All genes.
    source_of
        Number of the source of each cell, int64, (n_cells,).
    rows
        Row of each cell in its file, int64, (n_cells,).
    cell_ids
        Their names, (n_cells,).
    gene_list_of
        Number of the list of genes of each source, (n_sources,).
    hashes
        Hash of each cell over the genes that its file shares with each list, uint64, (n_cells, n_gene_lists); 0 where
        these counts are too few to tell cells apart.
    sketches
        Random projection of the log counts, float32 of length 1, (n_cells, 128); NaN where there is none.
    """

    sources: Sequence[CellSource]
    genes: Sequence[FileGenes]
    registry: GeneRegistry
    source_of: NDArray[np.int64]
    rows: NDArray[np.int64]
    cell_ids: NDArray[np.str_]
    gene_list_of: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    sketches: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def own_hashes(self) -> NDArray[np.uint64]:
        """Hash of each cell over all genes of its file, uint64, (n_cells,)."""
        return self.hashes[np.arange(len(self)), self.gene_list_of[self.source_of]]

    @cached_property
    def barcodes(self) -> NDArray[np.str_]:
        """Barcode in the name of each cell, the whole name if it holds none, (n_cells,)."""
        return np.array([barcode_of(name) for name in self.cell_ids.tolist()], np.str_)

    @cached_property
    def first_cells(self) -> NDArray[np.int64]:
        """Number of the first cell of each source, and the number of all, (n_sources + 1,)."""
        return np.searchsorted(self.source_of, np.arange(len(self.sources) + 1))


def barcode_of(cell_id: str) -> str:
    """The longest run of at least ten nucleotides in the name of a cell, the whole name if there is none.

    Examples
    --------
    >>> barcode_of("pbmc3k_AAACATACAACCAC-1"), barcode_of("Cell_17")
    ('AAACATACAACCAC', 'Cell_17')
    """
    return max(_BARCODE.findall(cell_id), key=len, default=cell_id)


def fingerprint(
    sources: Sequence[CellSource],
    *,
    gene_column: str | None = None,
    check: Callable[[StoredCells], None] | None = None,
    watch: Callable[[FileGenes, Block], None] | None = None,
    skip: Callable[[CellSource, CorpusError], None] | None = None,
    progress: bool = False,
) -> Fingerprints:
    """Fingerprint the cells of some sources in one pass over each, some hundred cells at a time.

    Parameters
    ----------
    sources
        Where the cells come from.
    gene_column
        Column of var that names the genes of every file.
    check
        Called with each file before any is read; raises CorpusError for one that cannot be used.
    watch
        Called with the genes and each block of every source in order, for whatever else the same pass can tell.
    skip
        Called with a source that cannot be used, which is then left out; not given, it raises.
    progress
        Whether to show a bar.

    Raises
    ------
    CorpusError
        If a source cannot be read or holds no counts, or none is left.
    """
    from tqdm.auto import tqdm

    if skip is not None:
        sources = _usable(sources, gene_column, check, skip, progress)
    genes = [_with_open(source, lambda cells: _genes_of(cells, gene_column, check)) for source in sources]
    registry = GeneRegistry(genes)
    columns = [registry.columns(one) for one in genes]
    lists, gene_list_of = _gene_lists(columns, len(registry))
    projections = _Projections(genes, columns, registry)
    parts: list[dict[str, NDArray[Any]]] = []
    for number, source in enumerate(tqdm(sources, desc="fingerprints", disable=not progress)):
        sums = _Sums(registry.keys, columns[number], lists[:, columns[number].clip(0)])

        def read(cells: StoredCells, number: int = number, source: CellSource = source, sums: _Sums = sums) -> None:
            rows = source.rows_of(cells)
            for block in source.blocks(cells):
                _refuse_columns_beyond(genes[number], block, source)
                n_cells = len(block.cell_ids)
                parts.append(
                    {
                        "source_of": np.full(n_cells, number),
                        "rows": rows[block.first : block.first + n_cells],
                        "cell_ids": block.cell_ids,
                        "hashes": sums(block.counts),
                        "sketches": projections(number, block.counts),
                    }
                )
                if watch is not None:
                    watch(genes[number], block)

        _with_open(source, read)
    if not parts:
        raise CorpusError("There are no cells: no file, or no row of one, was given.")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Fingerprints(sources, genes, registry, gene_list_of=gene_list_of, **joined)


class _Sums:
    """Hashes of the cells of one file over every list of genes."""

    def __init__(self, keys: NDArray[np.uint64], columns: NDArray[np.int64], lists: NDArray[np.bool_]) -> None:
        known = columns >= 0
        self._keys = np.where(known, keys[columns.clip(0)], 0).astype(np.uint64)
        self._lists = [(place, one) for place, one in enumerate(lists & known) if one.any()]
        self._n_lists = len(lists)

    def __call__(self, rows: Rows) -> NDArray[np.uint64]:
        counts = rows.values.astype(np.uint64)
        numbers = _mixed(self._keys[rows.columns] + counts * np.uint64(_GOLDEN))
        bits = np.log2(1 + rows.values.astype(np.float64))
        hashes = np.zeros((len(rows.offsets) - 1, self._n_lists), np.uint64)
        for place, inside in self._lists:
            taken = inside[rows.columns]
            sums = _row_sums(np.where(taken, numbers, np.uint64(0)), rows.offsets)
            enough = _row_sums(np.where(taken, bits, 0.0), rows.offsets) >= _FEWEST_BITS
            hashes[:, place] = np.where(enough, np.maximum(sums, np.uint64(1)), np.uint64(0))
        return hashes


class _Projections:
    """Sketches over the genes that all files of a species with whole transcriptomes have."""

    def __init__(
        self, genes: Sequence[FileGenes], columns: Sequence[NDArray[np.int64]], registry: GeneRegistry
    ) -> None:
        self._matrices: list[NDArray[np.float32] | None] = [None] * len(columns)
        whole = [number for number, one in enumerate(columns) if (one >= 0).sum() >= _WHOLE_TRANSCRIPTOME]
        for species in {genes[number].species for number in whole}:
            files = [number for number in whole if genes[number].species == species]
            n_files = np.zeros(len(registry), np.int64)
            for number in files:
                n_files[columns[number][columns[number] >= 0]] += 1
            shared = n_files == len(files)
            if shared.sum() < _WHOLE_TRANSCRIPTOME / 2:
                shared = 2 * n_files >= len(files)
            drawn = np.random.default_rng(0).standard_normal((len(registry) + 1, _SKETCH_SIZE), np.float32)
            drawn[:-1][~shared] = 0
            drawn[-1] = 0
            for number in files:
                self._matrices[number] = drawn[columns[number]]

    def __call__(self, number: int, rows: Rows) -> NDArray[np.float32]:
        from scipy.sparse import csr_array

        matrix, n_cells = self._matrices[number], len(rows.offsets) - 1
        if matrix is None:
            return np.full((n_cells, _SKETCH_SIZE), np.nan, np.float32)
        totals = _row_sums(rows.values.astype(np.float64), rows.offsets).clip(1)
        logs = np.log1p(rows.values * np.repeat(1e4 / totals, np.diff(rows.offsets))).astype(np.float32)
        made = csr_array((logs, rows.columns, rows.offsets), (n_cells, len(matrix))) @ matrix
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(made / lengths, np.float32)  # of nothing: NaN


def _usable(
    sources: Sequence[CellSource],
    gene_column: str | None,
    check: Callable[[StoredCells], None] | None,
    skip: Callable[[CellSource, CorpusError], None],
    progress: bool,
) -> list[CellSource]:
    """The sources all of whose cells can be read."""
    from tqdm.auto import tqdm

    usable = []

    def read(cells: StoredCells, source: CellSource) -> None:
        genes = _genes_of(cells, gene_column, check)
        for block in source.blocks(cells):
            _refuse_columns_beyond(genes, block, source)

    for source in tqdm(sources, desc="checks", disable=not progress):
        try:
            _with_open(source, lambda cells, source=source: read(cells, source))  # type: ignore[misc]
        except CorpusError as error:
            skip(source, error)
        else:
            usable.append(source)
    return usable


def _refuse_columns_beyond(genes: FileGenes, block: Block, source: CellSource) -> None:
    columns = block.counts.columns
    if len(columns) and (columns.max() >= len(genes.names) or columns.min() < 0):
        raise CorpusError(f"{source.name}: values stand in columns beyond the genes. The file is damaged.")


def _genes_of(cells: StoredCells, gene_column: str | None, check: Callable[[StoredCells], None] | None) -> FileGenes:
    if check is not None:
        check(cells)
    try:
        return file_genes(cells, gene_column=gene_column)
    except CorpusError:
        raise
    except ScfmError as error:
        raise CorpusError(f"{cells.place}: {error}") from error


def _with_open(source: CellSource, step: Callable[[StoredCells], Any]) -> Any:
    cells = source.open()
    try:
        return step(cells)
    finally:
        cells.close()


def _gene_lists(columns: Sequence[NDArray[np.int64]], n_genes: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The distinct lists of genes, (n_lists, n_genes), and which each source has."""
    masks: dict[bytes, tuple[int, NDArray[np.bool_]]] = {}
    numbers = []
    for one in columns:
        mask = np.zeros(n_genes, np.bool_)
        mask[one[one >= 0]] = True
        numbers.append(masks.setdefault(mask.tobytes(), (len(masks), mask))[0])
    return np.array([mask for _, mask in masks.values()]).reshape(len(masks), n_genes), np.array(numbers, np.int64)


def _row_sums(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Sum of each row; whole numbers modulo 2^64."""
    sums = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values, dtype=values.dtype)])
    return sums[offsets[1:]] - sums[offsets[:-1]]


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread each number over all 64 bits (the finaliser of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
