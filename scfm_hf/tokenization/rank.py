"""Rank value encoding: a cell is the list of its genes, ordered by expression relative to a statistic of the gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scfm_hf.errors import ExpressionError
from scfm_hf.tokenization.ragged import Ragged, row_blocks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

#: Values scored at a time: their scores, keys and positions stay in the processor's cache.
_CHUNK = 1 << 16

#: How genes of equal score are ordered: by column, or as NumPy's default sort leaves them.
Ties = Literal["stable", "unstable"]


@dataclass(frozen=True)
class RankedGenes:
    """The genes of each cell, highest score first.

    Parameters
    ----------
    gene_ids
        Vocabulary ids, int64.
    scores
        What they were ranked by, float64.
    """

    gene_ids: Ragged
    scores: Ragged

    def __len__(self) -> int:
        return len(self.gene_ids)


def rank_genes(
    counts: csr_array,
    totals: ArrayLike,
    statistics: ArrayLike,
    *,
    gene_ids: ArrayLike | None = None,
    max_genes: int | None = None,
    target_sum: float = 10_000.0,
    ties: Ties = "stable",
) -> RankedGenes:
    """Order each cell's expressed genes by scaled expression, highest first.

    The score is ``x * (1 / total) * target_sum * (1 / statistic)`` in float64, in this order, as in the original: two
    scores are equal here if and only if they are there. A gene is ranked if its score is above 0.

    Parameters
    ----------
    counts
        Raw counts, (n_cells, n_columns), of any numeric dtype. Columns of a row may stand in any order.
    totals
        Total count of each cell over all genes that were measured, (n_cells,).
    statistics
        What each gene is divided by (Geneformer: its non-zero median over the pretraining corpus), (n_vocabulary,); NaN
        where there is none: the gene is left out.
    gene_ids
        Vocabulary id of each column, -1 where the vocabulary lacks it, (n_columns,). None: the columns are the
        vocabulary.
    max_genes
        Genes kept a cell, None for all.
    target_sum
        Total that every cell is scaled to.
    ties
        ``"stable"``: equal scores keep the order of the columns, so the result does not depend on the order within a
        row, nor (with columns in the order of the vocabulary) on the order of the file. ``"unstable"``: what NumPy's
        default sort gives on this processor, as the original.

    Raises
    ------
    ExpressionError
        If a value is negative or not a number, or a cell with counts has a total that is not above 0.
    ValueError
        If ``max_genes`` is less than 1, or ``ties`` is neither of the two.

    References
    ----------
    Theodoris et al. 2023, Nature 618, Methods, "Rank value encoding".
    """
    if ties not in get_args(Ties):
        raise ValueError(f"ties={ties!r} is not one of {', '.join(map(repr, get_args(Ties)))}.")
    if max_genes is not None and max_genes < 1:
        raise ValueError(f"max_genes must be at least 1, or None for all; got {max_genes}.")
    columns = np.arange(counts.shape[1]) if gene_ids is None else np.asarray(gene_ids, np.int64)
    divisors = np.where(columns >= 0, np.asarray(statistics, np.float64)[columns], np.nan)
    known = np.isfinite(divisors) & (divisors > 0)
    factors = np.divide(1.0, divisors, out=np.zeros(len(columns)), where=known)
    offsets = np.asarray(counts.indptr, np.int64)
    per_cell = _reciprocal_totals(totals, offsets)

    rank_cells = order_scores if ties == "stable" else _rank_unstably
    limit = np.iinfo(np.int64).max if max_genes is None else max_genes
    order, scores, lengths = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
    for first, last in row_blocks(offsets, _CHUNK):
        span = slice(offsets[first], offsets[last])
        starts = offsets[first : last + 1] - offsets[first]
        block = counts.data[span].astype(np.float64)
        block *= np.repeat(per_cell[first:last], np.diff(starts))
        block *= target_sum
        block *= factors[counts.indices[span]]
        if not block.min(initial=0.0) >= 0.0:
            wrong = int(np.searchsorted(starts, np.flatnonzero(~(block >= 0.0))[0], side="right")) - 1 + first
            raise ExpressionError(
                f"Negative values or NaN among the counts (first: row {wrong}). Ranks need the raw counts."
            )
        picked, kept = rank_cells(block, counts.indices[span], starts, limit)
        order.append(counts.indices[span][picked])
        scores.append(block[picked])
        lengths.append(kept)
    ragged = Ragged.from_lengths(columns[np.concatenate(order)], np.concatenate(lengths))
    return RankedGenes(ragged, Ragged(np.concatenate(scores), ragged.offsets))


def _reciprocal_totals(totals: ArrayLike, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = np.asarray(totals, np.float64)
    wrong = np.flatnonzero(~(totals > 0) & (np.diff(offsets) > 0))
    if len(wrong):
        raise ExpressionError(
            f"{len(wrong)} cells have values but a total that is not above 0 (first: rows {wrong[:5].tolist()}). "
            "Pass the sums of the raw counts over all genes of each cell."
        )
    return np.divide(1.0, totals, out=np.zeros(len(totals)), where=totals > 0)


def order_scores(
    scores: NDArray[np.float64], columns: NDArray[Any], starts: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order each cell's scores, highest first, equal ones by column; those that are 0 are left out.

    Parameters
    ----------
    scores
        Of all cells, one after the other, none negative or NaN, (n_values,).
    columns
        Column of each score, (n_values,).
    starts
        Where each cell begins, and where the last ends, (n_cells + 1,).
    limit
        Most values a cell.

    Returns
    -------
    Positions of the ranked values, cell after cell, and their number in each cell.

    Notes
    -----
    Floats that are not negative sort like their bits. So one unsigned integer holds both a score (without its sign,
    inverted to sort downwards) in its high bits and the position in its low bits, and sorting plain integers (SIMD in
    NumPy) gives the order; an argsort would take twice as long. The bits of the score that make room for the position
    matter only among neighbours that agree in all others: those runs, ties included, are put in order afterwards.
    """
    low = np.uint64((1 << max(len(scores) - 1, 1).bit_length()) - 1)
    keys = scores.view(np.uint64) << np.uint64(1)
    np.invert(keys, out=keys)
    keys &= ~low
    keys |= np.arange(len(scores), dtype=np.uint64)
    ends = starts[:-1] + np.add.reduceat(np.append(scores > 0, False), starts[:-1], dtype=np.int64) * (
        np.diff(starts) > 0
    )
    pieces, lengths = [], []
    for start, stop, end in zip(starts[:-1].tolist(), starts[1:].tolist(), ends.tolist(), strict=True):
        cell = keys[start:stop]
        cut = start + limit
        if cut < end:
            # Only the best are sorted: the rest of a deep cell is merely put behind them.
            cell.partition(limit)
            cell[:limit].sort()
            if cell[limit - 1] | low == cell[limit] | low:
                # The cut goes through a run of near-equal scores: all of it must be put in order first.
                cell.sort()
                cut = start + int(np.searchsorted(cell, cell[limit] | low, side="right"))
            end = min(cut, end)
        else:
            cell.sort()
        pieces.append(keys[start:end])
        lengths.append(end - start)
    ranked = np.concatenate(pieces)
    picked = (ranked & low).astype(np.int64)
    kept = np.array(lengths)
    _order_runs(picked, ranked | low, scores, columns, kept)
    if kept.max() > limit:
        picked = Ragged.from_lengths(picked, kept).head(limit).values
        kept = np.minimum(kept, limit)
    return picked, kept


def _order_runs(
    picked: NDArray[np.int64],
    rough: NDArray[np.uint64],
    scores: NDArray[np.float64],
    columns: NDArray[Any],
    lengths: NDArray[np.int64],
) -> None:
    """Put runs of equal rough keys in exact order, equal scores by column; in place."""
    same = np.append(rough[1:] == rough[:-1], False)
    ends = np.cumsum(lengths)
    same[ends[lengths > 0] - 1] = False
    if not same.any():
        return
    in_run = same | np.append(False, same[:-1])
    begins = in_run & ~np.append(False, same[:-1])
    members = picked[in_run]
    picked[in_run] = members[np.lexsort((columns[members], -scores[members], np.cumsum(begins[in_run])))]


def _rank_unstably(
    scores: NDArray[np.float64], columns: NDArray[Any], starts: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As :func:`order_scores`, with ties as NumPy's default sort leaves them."""
    pieces = []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        expressed = start + np.flatnonzero(scores[start:stop] > 0)
        expressed = expressed[np.argsort(columns[expressed], kind="stable")]
        pieces.append(expressed[np.argsort(-scores[expressed])][:limit])
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces])
