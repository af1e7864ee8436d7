"""scFoundation's scheme: the genes that a cell expresses with their log-normalised counts, then two read depths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock

_TARGET_DEPTH = re.compile(r"([tfa])(-?\d+(?:\.\d+)?)")


class ScFoundationScheme(Scheme):
    """Gives each expressed gene log(1 + counts per 10,000), and the cell the depth it has and the one to imagine.

    Offers one column beside ``input_ids`` and ``values``: ``counts``, the values of the file, 0 at the depths.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    target_depth
        Depth that the model is asked for, as log10 of a total, in the authors' words: ``"t4"`` is 4 for every cell,
        ``"f2"`` twice the cell's own total, ``"a1"`` 1 above its log10. The authors take ``t4`` for most cell
        embeddings, ``f1`` for genes, ``a5`` or ``f1`` to ``f5`` for enhancement.
    bulk
        The samples are bulk: both depths are log10 of the total of the log-normalised values, ``target_depth`` is not
        used.
    normalized
        The values are log-normalised already. The depth is then log10 of their total, as the authors have it, unless
        ``total_counts`` says better; of bulk samples it is the total itself.
    total_counts
        Column of obs with each cell's total count, for values that are no counts any more.
    target_sum
        Total that counts are scaled to.
    depth_tokens
        Append the two depths; the authors' cell classifier has none.
    duplicates
        What becomes of columns that mean the same gene.

    References
    ----------
    Hao et al. 2024, Nature Methods 21, "Large-scale foundation model on single-cell transcriptomics".
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        target_depth: str = "t4",
        bulk: bool = False,
        normalized: bool = False,
        total_counts: str | None = None,
        target_sum: float = 1e4,
        depth_tokens: bool = True,
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        found = _TARGET_DEPTH.fullmatch(target_depth)
        if found is None or (found[1] == "f" and float(found[2]) <= 0):
            raise ValueError(
                f"target_depth={target_depth!r} is none of 't4' (4 for every cell), 'f2' (twice its total), 'a1' (1 "
                "above its own log10)."
            )
        self._kind, self._amount = found[1], float(found[2])
        self.bulk, self.normalized, self.total_counts = bulk, normalized, total_counts
        self.target_sum, self.depth_tokens, self.duplicates = target_sum, depth_tokens, duplicates
        if bulk:
            # Bulk samples come as estimated counts, too.
            self.expects = "any"
        elif normalized:
            self.expects = "log"

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(0.0, np.float32)}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The two depths behind the genes."""
        special = self.vocabulary.special_tokens
        return (), (special["target_depth"], special["source_depth"]) if self.depth_tokens else ()

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`. Cells longer than ``max_length`` keep their highest values."""
        csr = block.counts.sorted_indices()
        counts = Ragged(csr.data.astype(np.float64), csr.indptr)
        rows = counts.row_numbers
        totals = _sums(counts.values, rows, block.n_cells)
        expression = counts.values
        if not self.normalized:
            expression = np.log1p(expression * (self.target_sum / totals[rows]))
        depths = self._depths(block, totals, _sums(expression, rows, block.n_cells))
        genes, values, raw = _highest(
            Ragged(block.gene_ids[csr.indices], csr.indptr),
            Ragged(expression, csr.indptr),
            counts,
            max_length - 2 * self.depth_tokens,
        )
        if self.depth_tokens:
            ids = [self.vocabulary.token_to_id[token] for token in self.surrounding_tokens[1]]
            genes, raw = genes.surround((), ids), raw.surround((), [0.0, 0.0])
            values = values.surround((), [0.0, 0.0])
            ends = values.offsets[1:]
            values.values[ends - 2], values.values[ends - 1] = depths
        return {"input_ids": genes, "values": Ragged(values.values.astype(np.float32), genes.offsets), "counts": raw}

    def _depths(
        self, block: ProfileBlock, totals: NDArray[np.float64], log_totals: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Target and source depth of each cell, float64, (n_cells,); 0 of a cell without a gene."""
        if self.bulk:
            source = totals if self.normalized else _log10(log_totals)
            return source, source
        total = totals if self.total_counts is None else self._given_totals(block)
        source = _log10(total)
        if self._kind == "t":
            return np.full(block.n_cells, self._amount), source
        return source + (np.log10(self._amount) if self._kind == "f" else self._amount), source

    def _given_totals(self, block: ProfileBlock) -> NDArray[np.float64]:
        """The column of total counts."""
        name = self.total_counts
        if name not in block.obs:
            raise ValueError(
                f"total_counts={name!r} is no column of obs. There are: {', '.join(map(repr, block.obs))}."
            )
        totals = block.obs[name].to_numpy(np.float64)
        wrong = ~(np.isfinite(totals) & (totals > 0))
        if wrong.any():
            first = ", ".join(map(str, block.obs.index[wrong][:5]))
            raise ValueError(f"{name!r} is no positive number in {int(wrong.sum())} cells (first: {first}).")
        return totals


def _sums(values: NDArray[np.float64], rows: NDArray[np.int64], n_rows: int) -> NDArray[np.float64]:
    return np.bincount(rows, weights=values, minlength=n_rows).astype(np.float64)


def _log10(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(np.where(totals > 0, totals, 1.0))


def _highest(genes: Ragged, values: Ragged, counts: Ragged, limit: int) -> tuple[Ragged, Ragged, Ragged]:
    """The three with the highest values of each cell alone, in the order of the genes."""
    if not len(genes) or genes.lengths.max() <= limit:
        return genes, values, counts
    order = np.lexsort((-values.values, values.row_numbers))
    kept = np.sort(order[values.positions < limit])
    lengths = np.minimum(genes.lengths, limit)
    of_genes, of_values, of_counts = (Ragged.from_lengths(one.values[kept], lengths) for one in (genes, values, counts))
    return of_genes, of_values, of_counts


SCHEME = ScFoundationScheme
