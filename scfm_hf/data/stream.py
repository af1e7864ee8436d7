"""A corpus as a torch ``IterableDataset``: one order for any number of ranks and workers, resumed exactly."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from scfm_hf.data.sampling import repeats_in_epoch
from scfm_hf.errors import CorpusError
from scfm_hf.tokenization import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import datasets
    from numpy.typing import NDArray

    from scfm_hf.data.corpus import CorpusReport
    from scfm_hf.data.corpus_file import CorpusFile
    from scfm_hf.data.order import CorpusOrder, EpochOrder, Window
    from scfm_hf.data.window_reader import Cells, WindowReader
    from scfm_hf.genes import GeneVocabulary


@dataclass(frozen=True, eq=False)
class CellAnnotation:
    """A column of obs over all cells of a corpus.

    Parameters
    ----------
    values
        One a cell, (n_cells,): numbers, or codes of ``names``.
    names
        What codes stand for; None for numbers.
    as_code
        Whether cells get the code, as labels do, or the name.
    """

    values: NDArray[Any]
    names: tuple[str, ...] | None = None
    as_code: bool = False

    def of(self, cells: NDArray[np.int64]) -> list[Any]:
        """Values of some cells, in plain types; a missing name is None."""
        values = self.values[cells].tolist()
        if self.names is None or self.as_code:
            return values
        return [self.names[code] if code >= 0 else None for code in values]


class CellStream(IterableDataset):  # type: ignore[type-arg]
    """The cells of a corpus, one dictionary each, in an order that depends on the seed and the epoch alone.

    Made by :func:`scfm_hf.load_corpus`. ``len(stream)`` is the number of cells of an epoch (of this rank's share, after
    :meth:`shard`). Cells are NumPy arrays and plain values by name; arrays are views that must not be written to.

    Several workers give the same order as none where ``batch_size`` is that of the loader. All of them read every
    window and take their own cells of it: they share the work of encoding, not that of reading.

    Parameters
    ----------
    files, reader
        The files of the corpus, and what reads them.
    order
        How they are cut and mixed.
    vocabulary
        What ``gene_ids`` mean.
    report
        What became of the files.
    annotation
        Columns of obs by the name that cells have them under.
    weights
        How often each cell comes, relative to the others, (n_cells,); once an epoch each if not given.
    batch_size
        Cells that the loader takes at a time.
    """

    def __init__(
        self,
        files: Sequence[CorpusFile],
        reader: WindowReader,
        order: CorpusOrder,
        *,
        vocabulary: GeneVocabulary,
        report: CorpusReport,
        annotation: Mapping[str, CellAnnotation],
        weights: NDArray[np.float64] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.files, self.vocabulary, self.report = tuple(files), vocabulary, report
        self.annotation, self.weights, self.batch_size = dict(annotation), weights, batch_size
        self._reader, self._order = reader, order
        self._rank, self._world_size = 0, 1
        self._epoch = self._start = self._place = 0
        self._known_epoch: tuple[int, EpochOrder] | None = None

    def __len__(self) -> int:
        return self._share(self.n_cells)

    @property
    def n_cells(self) -> int:
        """Cells of an epoch, over all ranks."""
        return int(self._order.n_cells.sum())

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration gives."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than before starts at its first cell."""
        if epoch != self._epoch:
            self._epoch, self._start, self._place = int(epoch), 0, 0

    def shard(self, *, rank: int, world_size: int) -> Self:
        """The share of one of several ranks: every ``world_size``-th batch. Needs ``batch_size``.

        accelerate, and so Trainer, shares by itself: it takes the stream as it is.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, not {rank}.")
        if world_size > 1 and self.batch_size is None:
            raise ValueError("Ranks share batches: say how large these are with load_corpus(..., batch_size=).")
        shared = copy.copy(self)
        shared._rank, shared._world_size = rank, world_size
        return shared

    def state_dict(self, *, taken: int | None = None) -> dict[str, Any]:
        """Where the stream is: plain values, for JSON.

        Parameters
        ----------
        taken
            Cells that training has taken of this epoch, over all ranks. Needed where workers read ahead; without
            workers the stream knows.
        """
        step = (self.batch_size or 1) * self._world_size
        place = (
            self._start + -(-(self._place - self._start) // step) * step if self._place > self._start else self._start
        )
        return {
            "epoch": self._epoch,
            "offset": min(place if taken is None else int(taken), self.n_cells),
            "order": self._description(),
            "files": [[file.place, file.digest] for file in self.files],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream was, which costs the same at any place.

        Raises
        ------
        CorpusError
            If the files are not those of the state, or are read in another order.
        """
        self._refuse_other_files(state["files"])
        if dict(state["order"]) != self._description():
            different = [name for name, value in self._description().items() if state["order"].get(name) != value]
            raise CorpusError(
                f"The state belongs to another order: {', '.join(different)} differ. Load the corpus with the options "
                "of the run that is to go on."
            )
        self._epoch, self._start = int(state["epoch"]), int(state["offset"])
        self._place = self._start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for window, mine, cells, emitted in self._windows():
            places = window.first + mine
            columns = list(cells.items())
            for place, row in zip(places.tolist(), emitted.tolist(), strict=True):
                self._place = place + 1
                yield {name: entries[row] for name, entries in columns}
            del cells, columns  # before the next window is read
        self._start = self._place = 0

    def batches(self, batch_size: int) -> Iterator[dict[str, Ragged | NDArray[Any]]]:
        """The same cells in the same order, ``batch_size`` together, without a dictionary a cell.

        Yields
        ------
        ``Ragged`` columns and arrays by name; the last batch of an epoch may be smaller.
        """
        waiting: dict[str, list[Any]] = {}
        n_waiting = 0
        for window, mine, cells, emitted in self._windows():
            rows = emitted.tolist()
            waiting = {name: waiting.get(name, []) + [entries[row] for row in rows] for name, entries in cells.items()}
            n_waiting += len(rows)
            for first in range(0, n_waiting - batch_size + 1, batch_size):
                self._place = int(window.first + mine[len(mine) - n_waiting + first + batch_size - 1]) + 1
                yield _batch({name: entries[first : first + batch_size] for name, entries in waiting.items()})
            n_left = n_waiting % batch_size
            # Copies: a view would hold the blocks of the window while the next one is read.
            waiting = {name: _copied(entries[n_waiting - n_left :]) for name, entries in waiting.items()}
            n_waiting = n_left
            del cells
        if n_waiting:
            self._place = self.n_cells
            yield _batch(waiting)
        self._start = self._place = 0

    def cells_of(self, epoch: int) -> Iterator[tuple[str, int]]:
        """File and row of every cell in the order of an epoch, over all ranks, without reading them."""
        order = self._epoch_order(epoch)
        for number in range(order.n_windows):
            window = order.window(number)
            files = np.repeat(window.blocks.file, window.blocks.sizes)[window.order]
            for file, row in zip(files.tolist(), window.blocks.rows[window.order].tolist(), strict=True):
                yield self.files[file].place, row

    def to_datasets(self) -> datasets.IterableDataset:
        """The epoch as a ``datasets.IterableDataset`` with typed features, in the same order.

        Its shards are the windows: it can be split by node or by workers, and its own ``state_dict`` reads at most one
        window again. Call :meth:`set_epoch` before for another epoch; do not shuffle it again.
        """
        from scfm_hf.data.interchange import to_datasets

        return to_datasets(self)

    def window_of(self, number: int) -> Iterator[dict[str, Any]]:
        """All cells of one window of the epoch, whatever the rank and worker."""
        window = self._epoch_order(self._epoch).window(number)
        cells, emitted = self._read(window, np.arange(len(window)))
        for row in emitted.tolist():
            yield {name: entries[row] for name, entries in cells.items()}

    @property
    def n_windows(self) -> int:
        """Windows of the epoch."""
        return self._epoch_order(self._epoch).n_windows

    def _windows(self) -> Iterator[tuple[Window, NDArray[np.int64], Cells, NDArray[np.int64]]]:
        """Each window with the places that are this consumer's, what was read, and which row each place gives."""
        order, start = self._epoch_order(self._epoch), self._start
        worker, n_workers = self._worker()
        size = self.batch_size or 1
        for number in range(order.window_at(start), order.n_windows):
            window = order.window(number)
            places = np.arange(max(0, start - window.first), len(window))
            batch = (places + window.first - start) // size
            mine = places[(batch % self._world_size == self._rank) & (batch // self._world_size % n_workers == worker)]
            if len(mine):
                yield window, mine, *self._read(window, mine)

    def _read(self, window: Window, places: NDArray[np.int64]) -> tuple[Cells, NDArray[np.int64]]:
        """Read what some places of a window give, and say which row that is of each."""
        given = window.order[places]
        wanted = np.zeros(int(window.blocks.sizes.sum()), bool)
        wanted[given] = True
        cells = self._reader.read(window.blocks, wanted)
        files = np.repeat(window.blocks.file, window.blocks.sizes)[wanted]
        numbers = window.blocks.rows[wanted] + self._order.first_cells[files]
        for name, column in self.annotation.items():
            cells[name] = column.of(numbers)
        return cells, (np.cumsum(wanted) - 1)[given]

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._known_epoch is None or self._known_epoch[0] != epoch:
            weights = self.weights
            repeats = None if weights is None else repeats_in_epoch(weights, seed=self._order.seed, epoch=epoch)
            self._known_epoch = epoch, self._order.epoch(epoch, repeats)
        return self._known_epoch[1]

    def _worker(self) -> tuple[int, int]:
        information = get_worker_info()
        if information is None or information.num_workers == 1:
            return 0, 1
        if self.batch_size is None:
            raise ValueError(
                "Several workers share batches: say how large these are with load_corpus(..., batch_size=), so that "
                "the order of the cells stays the same."
            )
        return information.id, information.num_workers

    def _share(self, n_cells: int) -> int:
        size = self.batch_size or 1
        rounds, rest = divmod(n_cells, size * self._world_size)
        return rounds * size + min(max(rest - self._rank * size, 0), size)

    def _description(self) -> dict[str, Any]:
        order = self._order
        weights = None if self.weights is None else sha256(self.weights.tobytes()).hexdigest()[:16]
        return {
            "seed": order.seed,
            "block_size": order.block_size,
            "window_size": order.window_size,
            "weights": weights,
        }

    def _refuse_other_files(self, files: Sequence[Sequence[str]]) -> None:
        if len(files) != len(self.files):
            now = {file.digest for file in self.files}
            gone = [place for place, digest in files if digest not in now]
            raise CorpusError(
                f"The state belongs to a corpus of {len(files)} files, this one has {len(self.files)}. "
                f"Missing or changed: {', '.join(gone[:3]) or 'none'}. Give the files of the run that is to go on."
            )
        changed = [file.place for file, (_, digest) in zip(self.files, files, strict=True) if file.digest != digest]
        if changed:
            raise CorpusError(
                f"{len(changed)} of {len(files)} files are not those of the state (first: {', '.join(changed[:3])}): "
                "they were changed, or their order is another. Put the old ones back, or start the epoch anew."
            )


def _copied(entries: list[Any]) -> list[Any]:
    return [entry.copy() if isinstance(entry, np.ndarray) else entry for entry in entries]


def _batch(cells: Cells) -> dict[str, Ragged | NDArray[Any]]:
    return {
        name: Ragged.from_lengths(np.concatenate(entries), list(map(len, entries)))
        if isinstance(entries[0], np.ndarray)
        else np.array(entries)
        for name, entries in cells.items()
    }
