"""Sums over cells of each gene, the same in whatever order and parts the cells come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Values are summed as whole multiples of this, which unlike floats can be added in any order.
_UNIT = 2.0**-30
_LOW = np.int64(2**32 - 1)


class ExactSums:
    """Sums of numbers that are not negative, each rounded to a multiple of 2^-30 (about 1e-9) first.

    Parameters
    ----------
    size
        Number of sums.
    """

    def __init__(self, size: int) -> None:
        self.low, self.high = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, places: NDArray[np.integer], values: NDArray[np.float64]) -> None:
        """Add values, up to 2^33 together, at places, (n_values,) both."""
        sums = np.zeros(len(self.low), np.int64)
        np.add.at(sums, places, np.rint(values / _UNIT).astype(np.int64))
        self._add(sums & _LOW, sums >> np.int64(32))

    def merge(self, other: ExactSums) -> None:
        """Add other sums."""
        self._add(other.low, other.high)

    @property
    def values(self) -> NDArray[np.float64]:
        """The sums, float64, (size,)."""
        return (self.high * 2.0**32 + self.low) * _UNIT

    def _add(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        low = self.low + low
        self.low, self.high = low & _LOW, self.high + high + (low >> np.int64(32))


class GeneSums:
    """What is summed over the cells of a group.

    Parameters
    ----------
    n_genes
        Number of genes.
    """

    def __init__(self, n_genes: int) -> None:
        #: Cells in whose file each gene is, and that express it, int64, (n_genes,).
        self.n_measured, self.n_expressing = np.zeros(n_genes, np.int64), np.zeros(n_genes, np.int64)
        #: Of the scaled counts x, of log(1 + x) and of its square.
        self.scaled, self.logs, self.squares = ExactSums(n_genes), ExactSums(n_genes), ExactSums(n_genes)

    def add(
        self, n_cells: int, measured: NDArray[np.integer], genes: NDArray[np.integer], scaled: NDArray[np.float64]
    ) -> None:
        """Take cells of one file in.

        Parameters
        ----------
        n_cells
            Their number.
        measured
            The genes of the file, each once.
        genes, scaled
            Gene and scaled count, above 0, of all values of these cells, (n_values,).
        """
        self.n_measured[measured] += n_cells
        self.n_expressing += np.bincount(genes, minlength=len(self.n_expressing))
        logs = np.log1p(scaled)
        self.scaled.add(genes, scaled)
        self.logs.add(genes, logs)
        self.squares.add(genes, logs * logs)

    def merge(self, other: GeneSums) -> None:
        """Add the sums of other cells."""
        self.n_measured = self.n_measured + other.n_measured
        self.n_expressing = self.n_expressing + other.n_expressing
        for own, others in zip(self._sums, other._sums, strict=True):
            own.merge(others)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean scaled count over all cells that were measured, zeros included; NaN where none was, (n_genes,)."""
        return _divided(self.scaled.values, self.n_measured)

    @property
    def nonzero_means(self) -> NDArray[np.float64]:
        """Mean scaled count over the cells that express the gene; NaN where none does, (n_genes,)."""
        return _divided(self.scaled.values, self.n_expressing)

    @property
    def variances(self) -> NDArray[np.float64]:
        """Variance of log(1 + scaled count) over all cells that were measured; NaN where none was, (n_genes,)."""
        means = _divided(self.logs.values, self.n_measured)
        return np.maximum(_divided(self.squares.values, self.n_measured) - means**2, 0)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, for a file."""
        limbs = np.stack([limb for sums in self._sums for limb in (sums.low, sums.high)])
        return {"n_measured": self.n_measured, "n_expressing": self.n_expressing, "sums": limbs}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From what :meth:`to_arrays` gave."""
        made = cls(len(arrays["n_measured"]))
        made.n_measured, made.n_expressing = arrays["n_measured"], arrays["n_expressing"]
        for number, sums in enumerate(made._sums):
            sums.low, sums.high = arrays["sums"][2 * number], arrays["sums"][2 * number + 1]
        return made

    @property
    def _sums(self) -> tuple[ExactSums, ExactSums, ExactSums]:
        return self.scaled, self.logs, self.squares


def _divided(sums: NDArray[np.float64], n_cells: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(sums, n_cells, out=np.full(len(sums), np.nan), where=n_cells > 0)
