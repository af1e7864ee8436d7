"""Statistics of the genes of a corpus in one pass over its cells: medians, means, deviations, bin edges."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.counts import Harmoniser, counts_of, kept_rows, totals_of
from scfm_hf.data.gene_quantiles import GeneQuantiles
from scfm_hf.data.gene_sums import GeneSums
from scfm_hf.errors import CorpusError
from scfm_hf.folders import whole_file
from scfm_hf.genes import GeneVocabulary

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from scfm_hf.data.stream import CellStream

#: Rows read, and rows counted, at a time.
_READ_ROWS, _COUNTED_ROWS = 256, 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class CorpusStatistics:
    """What is known of each gene of a corpus.

    Parameters
    ----------
    vocabulary
        The genes; all arrays are in their order.
    target_sum
        Total, over all genes of its file, that each cell is scaled to.
    groups
        Sums over the cells of each group, such as a technology, by its name.
    quantiles
        Of the scaled counts above 0.
    n_cells
        Cells with counts.
    """

    vocabulary: GeneVocabulary
    target_sum: float
    groups: dict[str, GeneSums]
    quantiles: GeneQuantiles
    n_cells: int = 0

    @property
    def n_expressing(self) -> NDArray[np.int64]:
        """Cells that express each gene, (n_genes,)."""
        return self.quantiles.n_values

    @property
    def medians(self) -> NDArray[np.float64]:
        """Median scaled count of each gene over the cells that express it, (n_genes,); NaN where none does."""
        return self.quantiles.quantiles(0.5)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of log(1 + scaled count) within the groups that measured a gene, (n_genes,).

        The root of the mean variance, every group alike; NaN where no group did.
        """
        variances = np.array([sums.variances for sums in self.groups.values()])
        times = np.isfinite(variances).sum(0)
        total = np.nansum(variances, axis=0)
        return np.sqrt(np.divide(total, times, out=np.full(len(times), np.nan), where=times > 0))

    def bin_edges(self, n_bins: int = 51) -> NDArray[np.float64]:
        """Edges that cut the scaled counts above 0 of all genes and cells into ``n_bins - 1`` equally filled bins.

        Bin 0 is that of no count. (n_bins - 2,)
        """
        return self.quantiles.pooled_quantiles(np.linspace(0, 1, n_bins)[1:-1])

    def merge(self, other: CorpusStatistics) -> Self:
        """The statistics of both.

        Raises
        ------
        ValueError
            If the vocabularies, scaling or accuracy differ.
        """
        if self.vocabulary != other.vocabulary or self.target_sum != other.target_sum:
            raise ValueError("Statistics over other genes, or of counts scaled otherwise, cannot be merged.")
        made = _empty(self.vocabulary, self.target_sum, self.quantiles.accuracy, self.quantiles.exact_cells)
        for part in (self, other):
            made.quantiles.merge(part.quantiles)
            for name, sums in part.groups.items():
                made.groups.setdefault(name, GeneSums(len(self.vocabulary))).merge(sums)
        return type(self)(**{**vars(made), "n_cells": self.n_cells + other.n_cells})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one file (``.npz``), whole or not at all."""
        described = {
            "tokens": self.vocabulary.tokens,
            "id_kind": self.vocabulary.id_kind,
            "species": self.vocabulary.species,
            "target_sum": self.target_sum,
            "n_cells": self.n_cells,
            "accuracy": self.quantiles.accuracy,
            "exact_cells": self.quantiles.exact_cells,
            "groups": list(self.groups),
        }
        arrays: dict[str, Any] = {f"quantiles/{name}": array for name, array in self.quantiles.to_arrays().items()}
        for number, sums in enumerate(self.groups.values()):
            arrays |= {f"{number}/{name}": array for name, array in sums.to_arrays().items()}
        with whole_file(path, replace=True) as new, new.open("wb") as file:
            np.savez_compressed(file, described=np.array(json.dumps(described)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CorpusError
            If the file is damaged or of another kind.
        """
        try:
            with Path(path).open("rb") as stored, np.load(stored, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            described = json.loads(str(arrays.pop("described")))
            kept = {name: described[name] for name in ("accuracy", "exact_cells")}
            groups = {
                name: GeneSums.from_arrays(_below(arrays, str(number)))
                for number, name in enumerate(described["groups"])
            }
            return cls(
                vocabulary=GeneVocabulary(
                    described["tokens"], id_kind=described["id_kind"], species=tuple(described["species"])
                ),
                target_sum=described["target_sum"],
                groups=groups,
                quantiles=GeneQuantiles.from_arrays(_below(arrays, "quantiles"), **kept),
                n_cells=described["n_cells"],
            )
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CorpusError(f"{path} holds no statistics of a corpus, or is damaged ({error}).") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class FileStatistics:
    """Makes the statistics of single files; it pickles, so that any process of any machine can make any of them.

    Parameters
    ----------
    stream
        The corpus.
    reading
        How its files are read.
    groups
        Column of the annotation that says which group a cell is of; None: a group a file.
    target_sum, accuracy, exact_cells
        As in :func:`corpus_statistics`.
    """

    stream: CellStream
    reading: Reading
    groups: str | None = None
    target_sum: float = 10_000.0
    accuracy: float | None = 0.0025
    exact_cells: int = 1000
    partial: Path | None = None
    _first: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [file.n_cells for file in self.stream.files]
        object.__setattr__(self, "_first", np.concatenate([[0], np.cumsum(sizes)]))

    def __call__(self, number: int) -> CorpusStatistics:
        """The statistics of a file, read from the folder of parts if they are there, and kept there."""
        if self.partial is None:
            return self._of(number)
        path = self.partial / f"{self._key(number)}.npz"
        if not path.exists():
            self._of(number).save(path)
        return CorpusStatistics.load(path)

    def _of(self, number: int) -> CorpusStatistics:
        file, vocabulary = self.stream.files[number], self.stream.vocabulary
        made = _empty(vocabulary, self.target_sum, self.accuracy, self.exact_cells)
        names = self._names(number)
        harmonise = Harmoniser(file.mapping.indices.astype(np.int32))
        measured = np.unique(file.mapping.indices[file.mapping.known])
        n_cells = 0
        pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        cells = self.reading.open(file.place)
        try:
            for start in range(0, file.n_cells, _READ_ROWS):
                rows = counts_of(cells, start, min(start + _READ_ROWS, file.n_cells))
                totals, known = totals_of(rows), harmonise(rows)
                scale = np.divide(self.target_sum, totals, out=np.zeros(len(totals)), where=totals > 0)
                for name, of_group in _by_group(names, file.place, start, len(totals)):
                    mine = of_group & (totals > 0)
                    chosen = known if mine.all() else kept_rows(known, mine)
                    genes = chosen.columns.astype(np.int64)
                    scaled = chosen.values * np.repeat(scale[mine], np.diff(chosen.offsets))
                    sums = made.groups.setdefault(name, GeneSums(len(vocabulary)))
                    sums.add(int(mine.sum()), measured, genes, scaled)
                    pending.append((genes, scaled))
                n_cells += int((totals > 0).sum())
                if (start + _READ_ROWS) % _COUNTED_ROWS == 0:
                    _count(made.quantiles, pending)
        finally:
            cells.close()
        _count(made.quantiles, pending)
        return CorpusStatistics(**{**vars(made), "n_cells": n_cells})

    def _names(self, number: int) -> NDArray[np.str_] | None:
        """Group of each cell of a file; None where the file is the group."""
        file = self.stream.files[number]
        if self.groups is None:
            return None
        named = self.stream.annotation[self.groups].of(np.arange(self._first[number], self._first[number + 1]))
        if None in named:
            raise CorpusError(f"{file.place}: {named.count(None):,} cells have no {self.groups!r}.")
        return np.array(named, np.str_)

    def _key(self, number: int) -> str:
        """What tells the statistics of a file from others."""
        file = self.stream.files[number]
        described = [file.digest, file.place, self.stream.vocabulary.digest, self.target_sum, self.accuracy]
        digest = sha256(json.dumps([*described, self.exact_cells, self.groups]).encode())
        digest.update(file.mapping.indices.tobytes())
        names = self._names(number)
        if names is not None:
            digest.update("\n".join(names.tolist()).encode())
        return digest.hexdigest()[:24]


def corpus_statistics(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    vocabulary: GeneVocabulary | None = None,
    groups: str | None = None,
    target_sum: float = 10_000.0,
    accuracy: float | None = 0.0025,
    exact_cells: int = 1000,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    min_overlap: float = 0.5,
    on_error: Literal["raise", "skip"] = "raise",
    partial: str | os.PathLike[str] | None = None,
    progress: bool = True,
    map_files: Callable[[Callable[[int], CorpusStatistics], Sequence[int]], Iterator[CorpusStatistics]] = map,
) -> CorpusStatistics:
    """Read a corpus once, and count what its genes are like.

    The result is the same whatever the order of the files and of their cells, and in however many parts they are read.

    Parameters
    ----------
    files, layer, use_raw, gene_column, min_overlap, on_error
        As in :func:`scfm_hf.load_corpus`.
    vocabulary
        Genes; all of the files if not given. For genes that have neither Ensembl ids nor symbols, of which
        ``gene_column`` is to be named, these are their names as they stand.
    groups
        Column of obs by whose values means and deviations are kept apart, such as the technology or the study; None
        keeps files apart. Each group takes 64 bytes a gene.
    target_sum
        Total, over all genes of its file, that each cell is scaled to.
    accuracy
        Largest relative error of medians and bin edges of genes with many cells (needs the extra ``curation``); None
        keeps all values in memory, 12 bytes each, for exact ones.
    exact_cells
        Genes that at most so many cells express have exact medians in any case.
    partial
        Folder for the statistics of single files; what is there is not counted again.
    progress
        Show a bar.
    map_files
        What calls a function for each of some numbers, such as ``map`` or
        :func:`scfm_hf.data.ray_data.map_on_ray`. Function and results pickle.

    Raises
    ------
    CorpusError
        If a file cannot be used, or a cell has no group.
    MissingExtraError
        If ``ddsketch`` is not installed.
    """
    from tqdm.auto import tqdm

    stream = load_corpus(
        files,
        vocabulary=vocabulary,
        columns=[groups] if groups else [],
        layer=layer,
        use_raw=use_raw,
        gene_column=gene_column,
        min_overlap=min_overlap,
        on_error=on_error,
    )
    reading = Reading(layer=layer, use_raw=use_raw, gene_column=gene_column, min_overlap=min_overlap)
    folder = None if partial is None else Path(partial)
    of_file = FileStatistics(
        stream=stream,
        reading=reading,
        groups=groups,
        target_sum=target_sum,
        accuracy=accuracy,
        exact_cells=exact_cells,
        partial=folder,
    )
    made = _empty(stream.vocabulary, target_sum, accuracy, exact_cells)
    parts = map_files(of_file, range(len(stream.files)))
    for part in tqdm(parts, total=len(stream.files), unit="file", disable=not progress):
        made = made.merge(part)
    return CorpusStatistics(**{**vars(made), "groups": dict(sorted(made.groups.items()))})


def _by_group(
    names: NDArray[np.str_] | None, place: str, start: int, n_cells: int
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each group of a block of cells, and which of them are its own; without names the file is one group."""
    if names is None:
        yield place, np.ones(n_cells, np.bool_)
        return
    of_block = names[start : start + n_cells]
    for name in np.unique(of_block).tolist():
        yield name, of_block == name


def _empty(vocabulary: GeneVocabulary, target_sum: float, accuracy: float | None, exact_cells: int) -> CorpusStatistics:
    quantiles = GeneQuantiles(len(vocabulary), accuracy=accuracy, exact_cells=exact_cells)
    return CorpusStatistics(vocabulary=vocabulary, target_sum=target_sum, groups={}, quantiles=quantiles)


def _count(quantiles: GeneQuantiles, pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> None:
    if pending:
        quantiles.add(
            np.concatenate([genes for genes, _ in pending]), np.concatenate([values for _, values in pending])
        )
        pending.clear()


def _below(arrays: dict[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}
