"""Random draws of steps that sample: a stream for every cell, or the shared streams of the originals.

A step that samples takes a :class:`Draws` and asks it for the stream of each cell, in order::

    stream = draws.cell(cell_id)
    stream.uniform(n)             # n numbers in [0, 1)
    stream.permutation(n)         # 0 .. n - 1 in random order
    stream.choice(n, size)        # size of them, without replacement
    stream.numpy, stream.torch    # the generators themselves, for any other distribution

By default (:class:`CellDraws`) a cell's stream depends on the seed and the cell's id alone, so its result does not
change with its neighbours, the batch size, the order of cells or the number of workers. :class:`SharedDraws` is what
the original codes have: one stream that all cells draw from in turn.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray


class Stream(Protocol):
    """Random numbers for one cell."""

    @property
    def numpy(self) -> np.random.Generator | np.random.RandomState:
        """NumPy's generator behind the stream."""

    @property
    def torch(self) -> torch.Generator:
        """The CPU generator of torch behind the stream."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), float64, (size,)."""

    def permutation(self, n: int) -> NDArray[np.int64]:
        """The numbers 0 .. n - 1 in random order, int64, (n,)."""

    def choice(
        self, n: int, size: int, *, replace: bool = False, weights: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """``size`` of the numbers 0 .. n - 1, int64; ``weights``: their probabilities, (n,), summing to 1."""


class Draws(Protocol):
    """Gives each cell its stream."""

    def cell(self, cell_id: str | int) -> Stream:
        """The stream of a cell; asked for once a cell and step, cells in order."""


class CellDraws:
    """A stream of its own for every cell.

    Parameters
    ----------
    seed
        Any whole number.
    step
        Name of what is drawn, so that two steps with one seed do not share numbers; an epoch may be part of it
        (``"mask/3"``).
    """

    def __init__(self, seed: int = 0, *, step: str = "") -> None:
        self.seed = int(seed)
        self.step = step

    def for_step(self, step: str) -> CellDraws:
        """The same seed for another step."""
        return CellDraws(self.seed, step=step)

    def cell(self, cell_id: str | int) -> CellStream:
        """The stream of a cell, always the same from its beginning."""
        text = f"{self.seed}\x1f{self.step}\x1f{cell_id}"
        return CellStream(int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little"))


class CellStream:
    """Random numbers that depend on a key alone.

    Parameters
    ----------
    key
        A whole number of 128 bits: the key of NumPy's Philox generator, whose numbers are the same on every machine.
    """

    def __init__(self, key: int) -> None:
        self._key = key

    @cached_property
    def numpy(self) -> np.random.Generator:
        """NumPy's generator behind the stream."""
        return np.random.Generator(np.random.Philox(key=self._key))

    @cached_property
    def torch(self) -> torch.Generator:
        """The CPU generator of torch from the same key, independent of how far :attr:`numpy` has gone."""
        import torch

        return torch.Generator().manual_seed(self._key >> 65)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), float64, (size,)."""
        return self.numpy.random(size)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """The numbers 0 .. n - 1 in random order, int64, (n,)."""
        return self.numpy.permutation(n)

    def choice(
        self, n: int, size: int, *, replace: bool = False, weights: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """``size`` of the numbers 0 .. n - 1, int64; ``weights``: their probabilities, (n,), summing to 1."""
        return self.numpy.choice(n, size, replace=replace, p=None if weights is None else np.asarray(weights))


class SharedDraws:
    """One stream for all cells, as the global generators that the originals seed once.

    Cells must come in their order, in one process. NumPy's legacy generator (MT19937) and torch's CPU generator give
    the numbers that they give after ``numpy.random.seed(seed)`` and ``torch.manual_seed(seed)``.

    Parameters
    ----------
    numpy_seed, torch_seed
        Seeds of the two generators; the second is the first if left out.
    choice_by
        Which generator :meth:`choice` draws from: ``"numpy"`` as ``numpy.random.choice``, ``"torch"`` the beginning of
        a ``torch.randperm`` (only without replacement and weights).
    """

    def __init__(
        self, numpy_seed: int = 0, torch_seed: int | None = None, *, choice_by: Literal["numpy", "torch"] = "numpy"
    ) -> None:
        self.numpy = np.random.RandomState(numpy_seed)
        self._torch_seed = numpy_seed if torch_seed is None else torch_seed
        self._choice_by = choice_by

    @cached_property
    def torch(self) -> torch.Generator:
        """The CPU generator of torch behind the stream."""
        import torch

        return torch.Generator().manual_seed(self._torch_seed)

    def cell(self, cell_id: str | int) -> SharedDraws:
        """The one stream there is, wherever it stands."""
        del cell_id
        return self

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), as ``numpy.random.rand``."""
        return self.numpy.random_sample(size)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """The numbers 0 .. n - 1 in random order, as ``torch.randperm``."""
        import torch

        return torch.randperm(n, generator=self.torch).numpy()

    def choice(
        self, n: int, size: int, *, replace: bool = False, weights: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """``size`` of the numbers 0 .. n - 1, as ``choice_by`` says."""
        if self._choice_by == "torch":
            if replace or weights is not None:
                raise ValueError('A permutation of torch gives neither replacement nor weights; use choice_by="numpy".')
            return self.permutation(n)[:size]
        return self.numpy.choice(n, size, replace=replace, p=None if weights is None else np.asarray(weights))


def permutation(key: str, n: int) -> NDArray[np.int64]:
    """The numbers 0 .. n - 1 in an order that depends on the key alone.

    Made of the raw output of Philox, which NumPy promises never to change, unlike its ``permutation``.
    """
    raw = np.random.Philox(key=int.from_bytes(blake2b(key.encode(), digest_size=16).digest(), "little"))
    return np.argsort(raw.random_raw(n), kind="stable")
