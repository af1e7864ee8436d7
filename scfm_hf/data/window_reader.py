"""Reads the cells of a window, as counts over the vocabulary or as the inputs of a model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scfm_hf.data.corpus_file import OpenFiles
from scfm_hf.data.counts import Harmoniser, counts_of, kept_rows, totals_of
from scfm_hf.data.stored_rows import Rows
from scfm_hf.errors import CorpusError
from scfm_hf.tokenization import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.data.corpus_file import CorpusFile, Reading
    from scfm_hf.data.order import Blocks
    from scfm_hf.tokenization import CellTokenizer

# Blocks encoded at a time; so few that their arrays stay in the processor's cache.
_ENCODED_BLOCKS = 4

Cells = dict[str, list[Any]]
"""By name: one entry a cell, an array (a view) or a plain value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """How a tokenizer encodes the cells of a corpus.

    Parameters
    ----------
    tokenizer
        Vocabulary, statistics and scheme.
    max_length
        Most tokens a cell.
    options
        Options of the scheme.
    """

    tokenizer: CellTokenizer
    max_length: int
    options: Mapping[str, Any] = field(default_factory=dict)


class _Part(NamedTuple):
    """Cells of one block."""

    rows: NDArray[np.int64]
    counts: Rows
    totals: NDArray[np.float64] | None
    cell_ids: NDArray[np.str_] | None


class WindowReader:
    """Reads windows of a corpus.

    Parameters
    ----------
    files
        The files in their order.
    reading
        How they are read.
    encoder
        Gives the inputs of a model; None gives ``gene_ids`` and ``counts``.
    cell_ids
        Whether the names of the cells are wanted.
    """

    def __init__(
        self, files: Sequence[CorpusFile], reading: Reading, *, encoder: Encoder | None = None, cell_ids: bool = False
    ) -> None:
        self._open = OpenFiles(files, reading)
        self._encoder, self._cell_ids = encoder, cell_ids
        # Columns of the vocabulary without an encoder; places among the known genes of the file with one.
        self._gene_ids = [np.unique(file.mapping.indices[file.mapping.known]) for file in files]
        self._harmonise = [
            Harmoniser(self._columns(file, known)) for file, known in zip(files, self._gene_ids, strict=True)
        ]

    def read(self, blocks: Blocks, wanted: NDArray[np.bool_]) -> Cells:
        """The wanted rows of blocks, in their order.

        Parameters
        ----------
        blocks
            By file and row.
        wanted
            Whether each row of the blocks is, (n_rows,).

        Raises
        ------
        CorpusError
            If a file is damaged, was changed, or holds a value that is no count.
        """
        parts: dict[int, list[_Part]] = {}
        first = 0
        for file, start, stop in zip(blocks.file.tolist(), blocks.start.tolist(), blocks.stop.tolist(), strict=True):
            kept = wanted[first : first + stop - start]
            first += stop - start
            if kept.any():
                parts.setdefault(file, []).append(self._part(file, start, stop, kept))
        joined: defaultdict[str, list[Any]] = defaultdict(list)
        for file, of_file in parts.items():
            for name, entries in self._of_file(file, of_file).items():
                joined[name] += entries
        return dict(joined)

    def _part(self, file: int, start: int, stop: int, kept: NDArray[np.bool_]) -> _Part:
        cells = self._open[file]
        counts = counts_of(cells, start, stop)
        ids = cells.cell_ids(start, stop)[kept] if self._cell_ids or self._encoder else None
        if not kept.all():
            counts = kept_rows(counts, kept)
        totals = totals_of(counts) if self._encoder else None
        try:
            harmonised = self._harmonise[file](counts)
        except IndexError as error:
            raise CorpusError(
                f"{cells.place}, rows {start} to {stop - 1}: values stand in columns beyond the {len(cells.var):,} "
                "genes. The file is damaged."
            ) from error
        return _Part(start + np.flatnonzero(kept), harmonised, totals, ids)

    def _of_file(self, file: int, parts: list[_Part]) -> Cells:
        made: defaultdict[str, list[Any]] = defaultdict(list)
        if self._encoder is None:
            for part in parts:
                made["gene_ids"] += _views(part.counts.columns, part.counts.offsets)
                made["counts"] += _views(part.counts.values, part.counts.offsets)
        else:
            for first in range(0, len(parts), _ENCODED_BLOCKS):
                for name, entries in self._encoded(file, self._encoder, parts[first : first + _ENCODED_BLOCKS]):
                    made[name] += entries
        if self._cell_ids:
            made["cell_id"] = [name for part in parts if part.cell_ids is not None for name in part.cell_ids.tolist()]
        return made

    def _encoded(self, file: int, encoder: Encoder, parts: list[_Part]) -> Iterator[tuple[str, list[Any]]]:
        """Columns of the model's inputs."""
        from scipy.sparse import csr_array

        from scfm_hf.tokenization.profiles import ProfileBlock

        scheme, genes = encoder.tokenizer.scheme(**encoder.options), self._gene_ids[file]
        counts, rows = _concatenated([part.counts for part in parts]), np.concatenate([part.rows for part in parts])
        cells = csr_array((counts.values, counts.columns, counts.offsets), (len(rows), len(genes)))
        totals = np.concatenate([part.totals for part in parts if part.totals is not None])
        ids = np.concatenate([part.cell_ids for part in parts if part.cell_ids is not None])
        block = ProfileBlock(cells, genes, totals, ids, self._open[file].all_obs.iloc[rows])
        encoded = scheme.encode(block, max_length=encoder.max_length)
        for name in scheme.columns:
            if name not in encoded:
                continue
            column = encoded[name]
            if not isinstance(column, Ragged):
                yield name, column.tolist() if column.ndim == 1 else list(column)
                continue
            yield name, _views(column.values, column.offsets)
            if name == "input_ids":
                yield "attention_mask", _views(np.ones(len(column.values), np.int64), column.offsets)

    def _columns(self, file: CorpusFile, known: NDArray[np.int64]) -> NDArray[np.int32]:
        targets = file.mapping.indices.astype(np.int32)
        if self._encoder is not None:
            targets[file.mapping.known] = np.searchsorted(known, file.mapping.indices[file.mapping.known])
        return targets


def _views(values: NDArray[Any], offsets: NDArray[np.int64]) -> list[NDArray[Any]]:
    ends = offsets.tolist()
    return [values[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True)]


def _concatenated(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Rows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
