"""The order in which a corpus is read: a pure function of the seed and the epoch.

Each file is cut into blocks of contiguous rows, which disks and decompression like. An epoch permutes the blocks of all
files, takes them by windows of some hundred blocks, and mixes the rows of each window. Nothing else decides the order:
not the number of ranks or workers, not the machine. To go on at any place costs one look into a table of windows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfm_hf.tokenization.draws import permutation
from scfm_hf.tokenization.length_buckets import bucket_by_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Blocks:
    """Runs of contiguous rows of files.

    Parameters
    ----------
    file
        Number of the file of each block, int64, (n_blocks,).
    start, stop
        Its first row, and the one after its last, int64, (n_blocks,).
    """

    file: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Blocks:
        return Blocks(self.file[index], self.start[index], self.stop[index])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each block, int64, (n_blocks,)."""
        return self.stop - self.start

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row in its file of every cell, block after block, int64, (n_rows,)."""
        ends = np.cumsum(self.sizes)
        return np.arange(ends[-1] if len(self) else 0) + np.repeat(self.start - (ends - self.sizes), self.sizes)


@dataclass(frozen=True)
class Window:
    """Blocks that are read together, and the order of what they hold.

    Parameters
    ----------
    blocks
        By file and row, as they are best read.
    first
        Place in the epoch of the first cell that the window gives.
    order
        Which row of the blocks each place of the window gives, int64, (n_places,); a row that is repeated comes as
        often, one that is left out never.
    """

    blocks: Blocks
    first: int
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, eq=False)
class LengthBuckets:
    """How cells of like length come into one batch, see :func:`scfm_hf.tokenization.length_buckets.bucket_by_length`.

    Parameters
    ----------
    lengths
        Of every cell of the corpus, (n_cells,).
    batch_size, bucket_batches
        Cells a batch, and batches that exchange cells.
    """

    lengths: NDArray[np.integer]
    batch_size: int
    bucket_batches: int


class CorpusOrder:
    """Cuts the files of a corpus into blocks; :meth:`epoch` gives the order of an epoch.

    Parameters
    ----------
    n_cells
        Cells of each file.
    block_size
        Rows a block. A larger block is quicker to read, a smaller one mixes better.
    window_size
        Cells mixed at a time, about; they are held in memory.
    seed
        Any whole number.
    buckets
        Put cells of like length into batches; not if not given.
    """

    def __init__(
        self,
        n_cells: Sequence[int],
        *,
        block_size: int = 64,
        window_size: int = 8192,
        seed: int = 0,
        buckets: LengthBuckets | None = None,
    ) -> None:
        if block_size < 1 or window_size < block_size:
            raise ValueError(
                f"block_size must be at least 1 and at most window_size, not {block_size} and {window_size}."
            )
        self.block_size, self.window_size, self.seed = block_size, window_size, int(seed)
        self.buckets = buckets
        self.n_cells = np.asarray(n_cells, np.int64)
        #: Number in the corpus of the first cell of each file.
        self.first_cells = np.concatenate([[0], np.cumsum(self.n_cells)]).astype(np.int64)
        starts = [np.arange(0, size, block_size) for size in self.n_cells]
        file = np.repeat(np.arange(len(starts)), [len(start) for start in starts])
        start = np.concatenate([np.empty(0, np.int64), *starts])
        self.blocks = Blocks(file, start, np.minimum(start + block_size, self.n_cells[file]))

    def __len__(self) -> int:
        """Cells of an epoch."""
        return int(self.blocks.sizes.sum())

    @property
    def cells(self) -> NDArray[np.int64]:
        """Numbers in the corpus of the cells that come, ascending."""
        return np.sort(self.blocks.rows + np.repeat(self.first_cells[self.blocks.file], self.blocks.sizes))

    def only(self, kept: NDArray[np.bool_]) -> CorpusOrder:
        """The same order over some of the blocks.

        Parameters
        ----------
        kept
            Whether each of ``blocks`` is, (n_blocks,).
        """
        part = copy.copy(self)
        part.blocks = self.blocks[np.flatnonzero(kept)]
        return part

    def epoch(self, epoch: int, repeats: NDArray[np.integer] | None = None) -> EpochOrder:
        """The order of an epoch.

        Parameters
        ----------
        epoch
            Its number, from 0.
        repeats
            How often each cell of the corpus comes in it, (n_cells,); once each if not given.
        """
        return EpochOrder(self, epoch, repeats)


class EpochOrder:
    """The order of one epoch, window by window.

    Parameters
    ----------
    corpus
        The blocks.
    epoch
        Number of the epoch.
    repeats
        How often each cell comes, (n_cells,); once each if not given.
    """

    def __init__(self, corpus: CorpusOrder, epoch: int, repeats: NDArray[np.integer] | None = None) -> None:
        self._key = f"{corpus.seed}\x1f{epoch}"
        self._repeats, self._first_cells, self._buckets = repeats, corpus.first_cells, corpus.buckets
        self.blocks = corpus.blocks[permutation(f"{self._key}\x1fblocks", len(corpus.blocks))]
        sizes = self.blocks.sizes if repeats is None else self._repeated_sizes(repeats)
        if not sizes.all():
            self.blocks, sizes = self.blocks[np.flatnonzero(sizes)], sizes[sizes > 0]
        n_windows = min(max(1, round(int(self.blocks.sizes.sum()) / corpus.window_size)), max(1, len(sizes)))
        # Windows of equal size: no small one at the end that would mix badly.
        self._edges = np.arange(n_windows + 1) * len(sizes) // n_windows
        self._places = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)[self._edges]

    def __len__(self) -> int:
        return int(self._places[-1])

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self._edges) - 1

    def window_at(self, place: int) -> int:
        """Number of the window that gives the cell at a place of the epoch; ``n_windows`` past the end."""
        return int(np.searchsorted(self._places, place, side="right")) - 1 if place < len(self) else self.n_windows

    def window(self, number: int) -> Window:
        """A window, with the order of its cells."""
        blocks = self.blocks[slice(self._edges[number], self._edges[number + 1])]
        blocks = blocks[np.lexsort((blocks.start, blocks.file))]
        given, first = np.arange(blocks.sizes.sum()), int(self._places[number])
        cells = blocks.rows + np.repeat(self._first_cells[blocks.file], blocks.sizes)
        if self._repeats is not None:
            given = np.repeat(given, self._repeats[cells])
        key = f"{self._key}\x1f{number}"
        mixed = given[permutation(key, len(given))]
        if self._buckets is not None:
            sizes = {"batch_size": self._buckets.batch_size, "bucket_batches": self._buckets.bucket_batches}
            mixed = mixed[bucket_by_length(self._buckets.lengths[cells[mixed]], **sizes, key=key, first=first)]
        return Window(blocks, first, mixed)

    def _repeated_sizes(self, repeats: NDArray[np.integer]) -> NDArray[np.int64]:
        before = np.concatenate([[0], np.cumsum(repeats, dtype=np.int64)])
        first = self._first_cells[self.blocks.file]
        return before[first + self.blocks.stop] - before[first + self.blocks.start]
