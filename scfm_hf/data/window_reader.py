"""Reads the cells of a window, as counts over the vocabulary or as the inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scfm_hf.data.corpus_file import OpenFiles
from scfm_hf.data.counts import counts_of, harmonised, kept_rows, totals_of
from scfm_hf.data.stored_rows import Rows
from scfm_hf.tokenization import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.data.corpus_file import CorpusFile, Reading
    from scfm_hf.data.order import Blocks
    from scfm_hf.tokenization import CellTokenizer

# Cells encoded at a time; so few that their arrays stay in the processor's cache.
_ENCODED = 256

Columns = dict[str, "Ragged | NDArray[Any]"]
"""By name: ``Ragged`` for lists of numbers, arrays of one value (or row) a cell."""


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
        self._targets = [self._columns(file, known) for file, known in zip(files, self._gene_ids, strict=True)]

    def read(self, blocks: Blocks, wanted: NDArray[np.bool_]) -> Columns:
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
        return _joined([self._of_file(file, of_file) for file, of_file in parts.items()])

    def _part(self, file: int, start: int, stop: int, kept: NDArray[np.bool_]) -> _Part:
        cells = self._open[file]
        counts = counts_of(cells, start, stop)
        ids = cells.cell_ids(start, stop)[kept] if self._cell_ids or self._encoder else None
        if not kept.all():
            counts = kept_rows(counts, kept)
        totals = totals_of(counts) if self._encoder else None
        return _Part(start + np.flatnonzero(kept), harmonised(counts, self._targets[file]), totals, ids)

    def _of_file(self, file: int, parts: list[_Part]) -> Columns:
        ids = np.concatenate([part.cell_ids for part in parts if part.cell_ids is not None] or [np.empty(0, str)])
        counts = _concatenated([part.counts for part in parts])
        if self._encoder is None:
            made: Columns = {
                "gene_ids": Ragged(counts.columns, counts.offsets),
                "counts": Ragged(counts.values, counts.offsets),
            }
        else:
            totals = np.concatenate([part.totals for part in parts if part.totals is not None])
            rows = np.concatenate([part.rows for part in parts])
            made = self._encoded(file, self._encoder, counts, totals, rows, ids)
        if self._cell_ids:
            made["cell_id"] = ids
        return made

    def _encoded(
        self,
        file: int,
        encoder: Encoder,
        counts: Rows,
        totals: NDArray[np.float64],
        rows: NDArray[np.int64],
        ids: NDArray[np.str_],
    ) -> Columns:
        from scipy.sparse import csr_array

        from scfm_hf.tokenization.profiles import ProfileBlock

        genes, scheme = self._gene_ids[file], encoder.tokenizer.scheme(**encoder.options)
        cells = csr_array((counts.values, counts.columns, counts.offsets), (len(rows), len(genes)))
        obs = self._open[file].all_obs
        encoded = []
        for first in range(0, len(rows), _ENCODED):
            some = slice(first, first + _ENCODED)
            block = ProfileBlock(cells[some], genes, totals[some], ids[some], obs.iloc[rows[some]])
            encoded.append(scheme.encode(block, max_length=encoder.max_length))
        columns = [{name: made[name] for name in scheme.columns if name in made} for made in encoded]
        joined = _joined(columns)
        tokens = joined.get("input_ids")
        if isinstance(tokens, Ragged):
            joined["attention_mask"] = Ragged(np.ones(len(tokens.values), np.int64), tokens.offsets)
        return joined

    def _columns(self, file: CorpusFile, known: NDArray[np.int64]) -> NDArray[np.int32]:
        targets = file.mapping.indices.astype(np.int32)
        if self._encoder is not None:
            targets[file.mapping.known] = np.searchsorted(known, file.mapping.indices[file.mapping.known])
        return targets


def _joined(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    joined: Columns = {}
    for name in parts[0] if parts else ():
        of_name = [part[name] for part in parts]
        ragged = [column for column in of_name if isinstance(column, Ragged)]
        flat = [column for column in of_name if not isinstance(column, Ragged)]
        joined[name] = Ragged.concatenate(ragged) if ragged else np.concatenate(flat)
    return joined


def _concatenated(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Rows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
