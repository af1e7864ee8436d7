"""A corpus as a torch ``IterableDataset``: one order for any number of ranks and workers, resumed exactly."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from scfm_hf.data.rank_share import RankShare
from scfm_hf.data.sampling import repeats_in_epoch
from scfm_hf.data.stream_state import describe_order, refuse_other_files, refuse_other_order
from scfm_hf.errors import CorpusError
from scfm_hf.tokenization import Ragged
from scfm_hf.tokenization.draws import permutation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import datasets
    import ray
    from numpy.typing import NDArray

    from scfm_hf.data.annotation import CellAnnotation
    from scfm_hf.data.corpus import CorpusReport
    from scfm_hf.data.corpus_file import CorpusFile
    from scfm_hf.data.order import Blocks, CorpusOrder, EpochOrder, Window
    from scfm_hf.data.trainer_position import StreamPosition
    from scfm_hf.data.window_reader import Cells, WindowReader
    from scfm_hf.genes import GeneVocabulary


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
    keep
        Whether each cell comes at all, (n_cells,); all do if not given.
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
        keep: NDArray[np.bool_] | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.files, self.vocabulary, self.report = tuple(files), vocabulary, report
        self.annotation, self.weights, self.batch_size = dict(annotation), weights, batch_size
        self.keep = keep
        self._reader, self._order = reader, order
        self._rank, self._world_size, self._even_batches = 0, 1, False
        self._epoch = self._start = self._place = 0
        self._known_epoch: tuple[int, EpochOrder] | None = None

    def __len__(self) -> int:
        return self._share.size(self.n_cells)

    @property
    def n_cells(self) -> int:
        """Cells of an epoch, over all ranks."""
        return len(self._order) if self.keep is None else int(self.keep[self._order.cells].sum())

    @property
    def world_size(self) -> int:
        """Ranks that share an epoch."""
        return self._world_size

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration gives."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than before starts at its first cell."""
        if epoch != self._epoch:
            self._epoch, self._start, self._place = int(epoch), 0, 0

    def shard(self, *, rank: int, world_size: int, even_batches: bool = False) -> Self:
        """The share of one of several ranks: every ``world_size``-th batch. Needs ``batch_size``.

        Trainer gets the stream as it is: accelerate shares it, and
        :class:`~scfm_hf.data.trainer_position.StreamPosition` sees to it that each rank encodes its share only.

        Parameters
        ----------
        rank, world_size
            Which of how many.
        even_batches
            Give every rank as many batches, as training in step needs: the last cells are shared out evenly. If these
            are fewer than the ranks, some come to several ranks. Otherwise the last batch is missing on some ranks.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, not {rank}.")
        if world_size > 1 and self.batch_size is None:
            raise ValueError("Ranks share batches: say how large these are with load_corpus(..., batch_size=).")
        shared = copy.copy(self)
        shared._rank, shared._world_size, shared._even_batches = rank, world_size, even_batches
        return shared

    def split(
        self, *, share: float | None = None, files: Sequence[str] | None = None, seed: int = 0
    ) -> tuple[Self, Self]:
        """Two streams: one to train on, one of cells that are held out.

        Parameters
        ----------
        share
            Share of the blocks of contiguous rows that is held out, drawn at random. Other cells of the same samples
            then stay in training: hold out whole files to learn how a model does on other studies.
        files
            Files that are held out, as the report names them.
        seed
            Of the draw.

        Raises
        ------
        CorpusError
            If there is no such file, or one of the parts is empty.
        """
        if (share is None) == (files is None):
            raise ValueError("Give share= or files=, one of them.")
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"share must lie between 0 and 1, not be {share}.")
        blocks = self._order.blocks
        if files is not None:
            places = [file.place for file in self.files]
            if absent := [name for name in files if name not in places]:
                raise CorpusError(f"The corpus has no file {absent[0]!r}. It has {', '.join(places[:10])}.")
            held_out = np.isin(blocks.file, [places.index(name) for name in files])
        else:
            held_out = np.zeros(len(blocks), bool)
            held_out[permutation(f"{seed}\x1fsplit", len(blocks))[: round((share or 0) * len(blocks))]] = True
        if held_out.all() or not held_out.any():
            raise CorpusError(
                f"{held_out.sum()} of {len(blocks)} blocks would be held out: both parts need some. Choose another "
                "share, or a smaller block_size."
            )
        parts = copy.copy(self), copy.copy(self)
        for part, kept in zip(parts, (~held_out, held_out), strict=True):
            part._order, part._known_epoch = self._order.only(kept), None
        return parts

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
            "order": describe_order(self._order, self.weights, self.keep),
            "files": [[file.place, file.digest] for file in self.files],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a stream was, which costs the same at any place.

        Raises
        ------
        CorpusError
            If the files are not those of the state, or are read in another order.
        """
        refuse_other_files(state["files"], self.files)
        refuse_other_order(state["order"], describe_order(self._order, self.weights, self.keep))
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

    def trainer_callback(self) -> StreamPosition:
        """What keeps the stream's position in the checkpoints of a Trainer; CellTrainer asks for it by itself."""
        from scfm_hf.data.trainer_position import StreamPosition

        return StreamPosition()

    def to_datasets(self) -> datasets.IterableDataset:
        """The epoch as a ``datasets.IterableDataset`` with typed features, in the same order.

        Its shards are the windows: it can be split by node or by workers, and its own ``state_dict`` reads at most one
        window again. Call :meth:`set_epoch` before for another epoch; do not shuffle it again.
        """
        from scfm_hf.data.interchange import to_datasets

        return to_datasets(self)

    def to_ray(self, *, rows_per_task: int = 4096) -> ray.data.Dataset:
        """All cells once, as they are stored, as a ``ray.data.Dataset`` (extra ``ray``).

        Each task reads about so many rows, a few hundred at a time, on whichever machine has a core to spare;
        all machines must see the files. Ray is started on this one if it does not run; ``ray.shutdown()`` stops it.
        Columns are those of :meth:`to_datasets`, rows in the order of the files if
        ``ray.data.DataContext.get_current().execution_options.preserve_order`` is set.
        """
        from scfm_hf.data.ray_data import to_ray

        return to_ray(self, rows_per_task=rows_per_task)

    def window_of(self, number: int) -> Iterator[dict[str, Any]]:
        """All cells of one window of the epoch, whatever the rank and worker."""
        cells = self.read(self.window(number))
        for row in zip(*cells.values(), strict=True):
            yield dict(zip(cells, row, strict=True))

    @property
    def n_windows(self) -> int:
        """Windows of the epoch."""
        return self._epoch_order(self._epoch).n_windows

    def window(self, number: int) -> Window:
        """One window of the epoch."""
        return self._epoch_order(self._epoch).window(number)

    @property
    def stored_blocks(self) -> Blocks:
        """The cells in the order of the files, by blocks."""
        return self._order.blocks

    def read(self, window: Window) -> Cells:
        """What a window gives, in its order: by name one entry a cell."""
        cells, emitted = self._read(window, np.arange(len(window)))
        rows = emitted.tolist()
        return {name: [entries[row] for row in rows] for name, entries in cells.items()}

    def _windows(self) -> Iterator[tuple[Window, NDArray[np.int64], Cells, NDArray[np.int64]]]:
        """Each window with the places that are this consumer's, what was read, and which row each place gives."""
        order, start = self._epoch_order(self._epoch), self._start
        worker, n_workers = self._worker()
        share, n_left = self._share, self.n_cells - start
        for number in range(order.window_at(start), order.n_windows):
            window = order.window(number)
            places = np.arange(max(0, start - window.first), len(window))
            ahead = places + window.first - start
            mine = places[share.holds(ahead, n_left, worker=worker, n_workers=n_workers)]
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
            self._known_epoch = epoch, self._order.epoch(epoch, self._repeats(epoch))
        return self._known_epoch[1]

    def _repeats(self, epoch: int) -> NDArray[np.int32] | None:
        """How often each cell of the corpus comes in an epoch, if not once."""
        if self.weights is None:
            return None if self.keep is None else self.keep.astype(np.int32)
        repeats, cells = np.zeros(len(self.weights), np.int32), self._order.cells
        if self.keep is not None:
            cells = cells[self.keep[cells]]
        if not self.weights[cells].any():
            raise ValueError("All cells that are kept have a weight of 0.")
        repeats[cells] = repeats_in_epoch(self.weights[cells], seed=self._order.seed, epoch=epoch)
        return repeats

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

    @property
    def _share(self) -> RankShare:
        return RankShare(self._rank, self._world_size, self.batch_size or 1, self._even_batches)


def _copied(entries: list[Any]) -> list[Any]:
    return [entry.copy() if isinstance(entry, np.ndarray) else entry for entry in entries]


def _batch(cells: Cells) -> dict[str, Ragged | NDArray[Any]]:
    return {
        name: Ragged.from_lengths(np.concatenate(entries), list(map(len, entries)))
        if isinstance(entries[0], np.ndarray)
        else np.array(entries)
        for name, entries in cells.items()
    }
