"""Pairs of cells that are one cell: with the same counts, or with counts alike as after another alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from scfm_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells
    from scfm_hf.data.curation.fingerprints import Fingerprints

Search = Literal["auto", "exact", "approximate", "none"]
"""How cells without a common barcode are searched: all of them compared, by pynndescent, or not at all."""

# A name that more cells have than this is no barcode.
_MOST_OF_A_NAME = 64
# More cells than this are searched approximately.
_MOST_COMPARED = 100_000
_NEIGHBOURS = 3
# Sketches of copies agree up to their error, 1 / sqrt(128) of what is left to 1; cells further apart are not read.
_LEAST_SKETCH_COSINE = 0.8
_PAIRS_READ = 2048
# Most that one gene adds to a difference: a few genes that an annotation counts otherwise must not decide.
_MOST_OF_A_GENE = 4.0

COLUMNS = ("first", "second", "kind", "found_by", "cosine", "difference")


def duplicate_pairs(
    prints: Fingerprints,
    *,
    sides: NDArray[np.bool_] | None = None,
    min_cosine: float = 0.9,
    max_difference: float = 0.5,
    search: Search = "auto",
) -> pd.DataFrame:
    """Find the pairs of cells that are one cell.

    Pairs with the same counts over all genes that both files have come from hashes. Pairs whose counts are alike come
    from equal barcodes and from neighbouring sketches; both cells are then read and compared over the genes that both
    files have. Of many cells with the same counts, each is paired with one of the others at least, not with all.

    Parameters
    ----------
    prints
        Fingerprints of all cells.
    sides
        On which of two sides each cell is, (n_cells,): then only pairs of both sides count, ``first`` on False.
    min_cosine
        Least cosine of the log-normalised counts of two cells alike.
    max_difference
        Greatest difference of two cells alike: the mean of (a - b)^2 / (a + b), at most 4, over the genes that either
        shows. It is about 1, or more, for two samples drawn from the same RNA, whatever their depth, and 0 for equal
        counts.
    search
        How cells without a common barcode are searched. ``"auto"`` compares all up to 100,000 cells.

    Returns
    -------
    One line a pair: numbers of the cells (``first``, ``second``), ``kind`` (``same counts`` or ``alike``), ``found_by``
    (``hash``, ``barcode`` or ``neighbour``), ``cosine`` and ``difference``.

    Raises
    ------
    MissingExtraError
        If an approximate search is wanted and pynndescent is not installed.
    ValueError
        If there is no such search.
    """
    if search not in get_args(Search):
        raise ValueError(f"There is no search {search!r}; there are {', '.join(get_args(Search))}.")
    same = _table(_same_counts(prints, sides), kind="same counts", found_by="hash", cosine=1.0, difference=0.0)
    ways = {"barcode": _same_barcode(prints, sides), "neighbour": _neighbours(prints, sides, search)}
    tables, known = [same], _keys(same[["first", "second"]].to_numpy(), len(prints))
    for way, pairs in ways.items():
        keys = _keys(pairs, len(prints))
        new = ~np.isin(keys, known)
        known = np.concatenate([known, keys[new]])
        cosine, difference = compare_cells(prints, pairs[new])
        alike = (cosine >= min_cosine) & (difference <= max_difference)
        tables.append(
            _table(pairs[new][alike], kind="alike", found_by=way, cosine=cosine[alike], difference=difference[alike])
        )
    return pd.concat([table for table in tables if len(table)] or [same], ignore_index=True)


def compare_cells(prints: Fingerprints, pairs: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare pairs of cells over the genes that both files have.

    Returns
    -------
    Cosine of the log-normalised counts, and mean of (a - b)^2 / (a + b) over the genes that either shows; float64,
    (n_pairs,) each; NaN for cells that share no count.
    """
    cosine, difference = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    sources = prints.source_of[pairs]
    order = np.lexsort((pairs[:, 0], sources[:, 1], sources[:, 0]))
    opened: dict[int, StoredCells] = {}
    try:
        for chosen in _chunks(sources[order]):
            places = order[chosen]
            a, b = (int(number) for number in sources[places[0]])
            for number in {a, b} - set(opened):
                opened[number] = prints.sources[number].open()
            shared = _shared_genes(prints, a, b)
            first = _counts(prints, a, opened[a], pairs[places, 0], shared)
            second = _counts(prints, b, opened[b], pairs[places, 1], shared)
            cosine[places], difference[places] = _cosine(first, second), _difference(first, second)
            for number in set(opened) - {a}:
                opened.pop(number).close()
    finally:
        for cells in opened.values():
            cells.close()
    return cosine, difference


def _same_counts(prints: Fingerprints, sides: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    lists = prints.gene_list_of[prints.source_of]
    found = []
    for a in range(prints.hashes.shape[1]):
        of_a = np.flatnonzero(lists == a)
        for b in range(a, prints.hashes.shape[1]):
            of_b = np.flatnonzero(lists == b)
            keys_a, keys_b = prints.hashes[of_a, b], prints.hashes[of_b, a]
            of_a_known, of_b_known = of_a[keys_a > 0], of_b[keys_b > 0]
            keys_a, keys_b = keys_a[keys_a > 0], keys_b[keys_b > 0]
            if not len(keys_a) or not len(keys_b):
                continue
            if sides is None:
                found.append(np.sort(_matches(keys_a, of_a_known, keys_b, of_b_known), axis=1))
                continue
            on_a, on_b = sides[of_a_known], sides[of_b_known]
            found.append(_matches(keys_a[~on_a], of_a_known[~on_a], keys_b[on_b], of_b_known[on_b]))
            found.append(_matches(keys_b[~on_b], of_b_known[~on_b], keys_a[on_a], of_a_known[on_a]))
    return _unique(found)


def _matches(
    keys_a: NDArray[np.uint64], cells_a: NDArray[np.int64], keys_b: NDArray[np.uint64], cells_b: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each cell with the first one of the other group that has its key."""
    if not len(keys_a) or not len(keys_b):
        return np.empty((0, 2), np.int64)
    one = _first_with(keys_a, cells_a, keys_b)
    other = _first_with(keys_b, cells_b, keys_a)
    return np.concatenate(
        [np.stack([one, cells_b], 1)[one >= 0], np.stack([cells_a, other], 1)[other >= 0]],
    )


def _first_with(keys: NDArray[np.uint64], cells: NDArray[np.int64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """First cell that has each wanted key, -1 if none has."""
    distinct, first = np.unique(keys, return_index=True)
    place = np.searchsorted(distinct, wanted).clip(max=len(distinct) - 1)
    return np.where(distinct[place] == wanted, cells[first][place], -1)


def _same_barcode(prints: Fingerprints, sides: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    codes, sizes = np.unique(prints.barcodes, return_inverse=True, return_counts=True)[1:]
    shared = (sizes[codes] > 1) & (sizes[codes] <= _MOST_OF_A_NAME)
    table = pd.DataFrame({"code": codes[shared], "cell": np.flatnonzero(shared)})
    pairs = table.merge(table, on="code")[["cell_x", "cell_y"]].to_numpy(np.int64)
    if sides is None:
        return _unique([pairs[pairs[:, 0] < pairs[:, 1]]])
    return _unique([pairs[~sides[pairs[:, 0]] & sides[pairs[:, 1]]]])


def _neighbours(prints: Fingerprints, sides: NDArray[np.bool_] | None, search: Search) -> NDArray[np.int64]:
    if search == "none":
        return np.empty((0, 2), np.int64)
    species = np.array([str(genes.species) for genes in prints.genes])[prints.source_of]
    sketched = np.isfinite(prints.sketches).all(axis=1)
    found = []
    for one in np.unique(species[sketched]):
        cells = np.flatnonzero(sketched & (species == one))
        index = cells if sides is None else cells[~sides[cells]]
        query = cells if sides is None else cells[sides[cells]]
        if not len(index) or not len(query):
            continue
        approximate = search == "approximate" or (search == "auto" and len(index) > _MOST_COMPARED)
        near = _approximate if approximate else _exact
        neighbours, cosine = near(prints.sketches[index], prints.sketches[query], min(_NEIGHBOURS + 1, len(index)))
        pairs = np.stack([index[neighbours], np.broadcast_to(query[:, None], neighbours.shape)], axis=-1)
        pairs = pairs[(cosine >= _LEAST_SKETCH_COSINE) & (neighbours >= 0)]
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    return _unique([np.sort(pairs, axis=1) for pairs in found] if sides is None else found)


def _exact(
    index: NDArray[np.float32], query: NDArray[np.float32], n_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=n_neighbours, algorithm="brute").fit(index)
    distance, neighbours = search.kneighbors(query)
    return neighbours, 1 - distance**2 / 2


def _approximate(
    index: NDArray[np.float32], query: NDArray[np.float32], n_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    try:
        from pynndescent import NNDescent
    except ImportError as error:
        raise MissingExtraError("pynndescent", "curation") from error
    search = NNDescent(index, metric="euclidean", n_neighbors=15, random_state=0)
    neighbours, distance = search.query(query, k=n_neighbours)
    return neighbours.astype(np.int64), 1 - distance**2 / 2


def _chunks(sources: NDArray[np.int64]) -> Iterator[slice]:
    """Stretches of sorted pairs of sources that are the same, none too long to be held in memory."""
    if not len(sources):
        return
    starts = np.flatnonzero(np.concatenate([[True], (sources[1:] != sources[:-1]).any(axis=1)]))
    for start, stop in zip(starts, [*starts[1:], len(sources)], strict=True):
        yield from (slice(first, min(first + _PAIRS_READ, stop)) for first in range(start, stop, _PAIRS_READ))


def _shared_genes(prints: Fingerprints, a: int, b: int) -> NDArray[np.bool_]:
    has = np.zeros((2, len(prints.registry)), np.bool_)
    for side, number in enumerate((a, b)):
        columns = prints.registry.columns(prints.genes[number])
        has[side, columns[columns >= 0]] = True
    return has[0] & has[1]


def _counts(
    prints: Fingerprints, number: int, cells: StoredCells, wanted: NDArray[np.int64], shared: NDArray[np.bool_]
) -> sparse.csr_array:
    """Counts of some cells of a source over all genes, without those of genes that are not shared."""
    distinct, of_wanted = np.unique(wanted - prints.first_cells[number], return_inverse=True)
    matrix = prints.sources[number].read(cells, distinct)
    columns = prints.registry.columns(prints.genes[number])
    kept = (columns >= 0) & shared[columns.clip(0)]
    to_genes = sparse.csr_array(
        (np.ones(kept.sum(), np.float32), (np.flatnonzero(kept), columns[kept])), (len(columns), len(shared))
    )
    return sparse.csr_array((matrix @ to_genes)[of_wanted])


def _cosine(first: sparse.csr_array, second: sparse.csr_array) -> NDArray[np.float64]:
    a, b = (_logs(one) for one in (first, second))
    lengths = np.sqrt(a.multiply(a).sum(axis=1) * b.multiply(b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(a.multiply(b).sum(axis=1) / lengths)


def _logs(counts: sparse.csr_array) -> sparse.csr_array:
    totals = np.maximum(counts.sum(axis=1), 1)
    return (sparse.diags_array(1e4 / totals) @ counts).tocsr().astype(np.float64).log1p()


def _difference(first: sparse.csr_array, second: sparse.csr_array) -> NDArray[np.float64]:
    total, apart = (first + second).tocsr(), abs(first - second).tocsr()
    inverse = total.copy()
    inverse.data = 1 / inverse.data
    n_genes = np.diff(total.indptr)
    parts = apart.multiply(apart).multiply(inverse).tocsr()
    parts.data = np.minimum(parts.data, _MOST_OF_A_GENE)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(parts.sum(axis=1) / n_genes)


def _unique(pairs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    joined = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    return np.unique(joined[joined[:, 0] != joined[:, 1]], axis=0)


def _keys(pairs: NDArray[np.int64], n_cells: int) -> NDArray[np.int64]:
    return pairs[:, 0] * n_cells + pairs[:, 1]


def _table(pairs: NDArray[np.int64], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"first": pairs[:, 0], "second": pairs[:, 1]} | columns, columns=list(COLUMNS))
