"""Quantiles of the values of each gene, in one pass over as many cells as there are, whatever their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from scfm_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Values that buckets tell apart; those beyond are taken for these.
_SMALLEST, _LARGEST = 1e-6, 1e9
#: Single values held (12 bytes each) before those of genes that have too many are let go.
_HELD = 1 << 22


class GeneQuantiles:
    """The values of each gene: all of them where they are few, counts by bucket where they are many.

    The buckets are those of DDSketch (of the package ``ddsketch``): their edges are powers of a number, so that a
    quantile is wrong by at most ``accuracy`` times itself. What is counted does not depend on the order of the values,
    nor on how they are split and merged: neither does any quantile.

    Parameters
    ----------
    n_genes
        Number of genes.
    accuracy
        Largest relative error of a quantile of a gene with many values; None keeps all values of all genes.
    exact_cells
        Values of a gene up to which all are kept.

    References
    ----------
    Masson et al. 2019, PVLDB 12, "DDSketch".
    """

    def __init__(self, n_genes: int, *, accuracy: float | None = 0.0025, exact_cells: int = 1000) -> None:
        self.n_genes, self.accuracy, self.exact_cells = n_genes, accuracy, exact_cells
        #: Values that each gene has, int64, (n_genes,).
        self.n_values = np.zeros(n_genes, np.int64)
        self._genes, self._values = [np.empty(0, np.int32)], [np.empty(0)]
        self._n_held, self._most_held = 0, _HELD
        self._buckets: sparse.csr_array | None = None
        if accuracy is not None:
            self._mapping = _mapping(accuracy)
            self._log_gamma = np.log(self._mapping.gamma)
            self._first = int(np.floor(np.log(_SMALLEST) / self._log_gamma))
            n_buckets = int(np.ceil(np.log(_LARGEST) / self._log_gamma)) - self._first + 1
            self._buckets = sparse.csr_array((n_genes, n_buckets), dtype=np.int64)

    def add(self, genes: NDArray[np.integer], values: NDArray[np.float64]) -> None:
        """Take values in.

        Parameters
        ----------
        genes
            Of each value, (n_values,).
        values
            Above 0, (n_values,).
        """
        self.n_values += np.bincount(genes, minlength=self.n_genes)
        self._genes.append(genes.astype(np.int32))
        self._values.append(values)
        self._n_held += len(values)
        if self._buckets is not None:
            keys = np.ceil(np.log(np.clip(values, _SMALLEST, _LARGEST)) / self._log_gamma).astype(np.int64)
            shape = self._buckets.shape
            flat, times = np.unique(genes.astype(np.int64) * shape[1] + keys - self._first, return_counts=True)
            self._buckets = self._buckets + sparse.csr_array((times, np.divmod(flat, shape[1])), shape)
            if self._n_held > self._most_held:
                self._let_go()

    def merge(self, other: GeneQuantiles) -> None:
        """Take in all that another one has.

        Raises
        ------
        ValueError
            If it is of other genes or another accuracy.
        """
        own, others = (
            (one.n_genes, one.accuracy, one.exact_cells if one.accuracy is not None else None) for one in (self, other)
        )
        if own != others:
            raise ValueError(f"Quantiles of {others} (genes, accuracy, exact cells) cannot join those of {own}.")
        self.n_values = self.n_values + other.n_values
        self._genes, self._values = self._genes + other._genes, self._values + other._values
        self._n_held += other._n_held
        if self._buckets is not None:
            self._buckets = self._buckets + other._buckets
            if self._n_held > self._most_held:
                self._let_go()

    def quantiles(self, share: float) -> NDArray[np.float64]:
        """A quantile of each gene, float64, (n_genes,); NaN for a gene without values.

        It is that of ``numpy.quantile``: exact where all values are known, else of the buckets' values.
        """
        found = np.full(self.n_genes, np.nan)
        genes, values = self._let_go()
        order = np.lexsort((values, genes))
        genes, values = genes[order], values[order]
        present, first, times = np.unique(genes, return_index=True, return_counts=True)
        place = (times - 1) * share
        low = np.floor(place).astype(np.int64)
        lower, upper = values[first + low], values[first + np.minimum(low + 1, times - 1)]
        found[present] = lower + (upper - lower) * (place - low)
        if self._buckets is not None:
            many = np.flatnonzero(self.n_values > self.exact_cells)
            found[many] = self._of_buckets(self._buckets[many], share)
        return found

    def pooled_quantiles(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quantiles of the values of all genes together, float64, (n_shares,)."""
        if self._buckets is None:
            return np.quantile(np.concatenate(self._values), shares)
        pooled = sparse.csr_array(self._buckets.sum(axis=0).reshape(1, -1))
        return np.concatenate([self._of_buckets(pooled, share) for share in shares.tolist()])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, for a file."""
        genes, values = self._let_go()
        arrays: dict[str, NDArray[Any]] = {"n_values": self.n_values, "genes": genes, "values": values}
        if self._buckets is not None:
            for name in ("data", "indices", "indptr"):
                arrays[f"buckets_{name}"] = getattr(self._buckets, name)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, accuracy: float | None, exact_cells: int) -> Self:
        """From what :meth:`to_arrays` gave."""
        made = cls(len(arrays["n_values"]), accuracy=accuracy, exact_cells=exact_cells)
        made.n_values = arrays["n_values"]
        made._genes, made._values, made._n_held = [arrays["genes"]], [arrays["values"]], len(arrays["values"])
        if made._buckets is not None:
            parts = tuple(arrays[f"buckets_{name}"] for name in ("data", "indices", "indptr"))
            made._buckets = sparse.csr_array(parts, made._buckets.shape)
        return made

    def _of_buckets(self, buckets: sparse.csr_array, share: float) -> NDArray[np.float64]:
        """The value of the bucket that holds a quantile, of each row; rows must not be empty."""
        buckets.sort_indices()
        ends = np.cumsum(buckets.data)
        before = np.concatenate([[0], ends])[buckets.indptr[:-1]]
        place = share * (np.concatenate([[0], ends])[buckets.indptr[1:]] - before - 1)
        low, high = (
            self._values_at(buckets, np.searchsorted(ends, before + rank, side="right"))
            for rank in (np.floor(place), np.ceil(place))
        )
        return low + (high - low) * (place - np.floor(place))

    def _values_at(self, buckets: sparse.csr_array, places: NDArray[np.int64]) -> NDArray[np.float64]:
        keys, inverse = np.unique(buckets.indices[places], return_inverse=True)
        return np.array([self._mapping.value(key + self._first) for key in keys.tolist()])[inverse]

    def _let_go(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Keep the single values of genes that have few only; genes and values of these."""
        genes, values = np.concatenate(self._genes), np.concatenate(self._values)
        if self._buckets is not None:
            kept = (self.n_values <= self.exact_cells)[genes]
            genes, values = genes[kept], values[kept]
        self._genes, self._values, self._n_held = [genes], [values], len(values)
        # Twice what had to stay: else it would be gone through at every step.
        self._most_held = max(_HELD, 2 * len(values))
        return genes, values


def _mapping(accuracy: float) -> Any:
    try:
        from ddsketch.mapping import LogarithmicMapping
    except ImportError as error:
        raise MissingExtraError("ddsketch", "curation") from error
    return LogarithmicMapping(accuracy)
