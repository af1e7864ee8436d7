"""Tokens with values: a cell is a set of genes, each with its binned expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scfm_hf.tokenization.bin import Ties, bin_values
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

    from scfm_hf.tokenization.draws import Draws

#: Which genes of a cell are kept when it has too many.
Selection = Literal["random", "highest", "first"]


@dataclass(frozen=True)
class BinnedTokens:
    """Genes and their values.

    Parameters
    ----------
    input_ids
        Vocabulary ids, int64.
    values
        Bins, float32.
    """

    input_ids: Ragged
    values: Ragged

    def __len__(self) -> int:
        return len(self.input_ids)


def binned_tokens(
    counts: csr_array,
    gene_ids: ArrayLike,
    *,
    cls_id: int | None = None,
    cls_value: float = 0.0,
    target_sum: float | None = None,
    log1p: bool = False,
    n_bins: int | None = 51,
    ties: Ties = "upper",
    edges: Sequence[float] | None = None,
    include_zero_genes: bool = False,
    max_length: int | None = None,
    selection: Selection = "random",
    draws: Draws | None = None,
    selection_draws: Draws | None = None,
    cell_ids: Sequence[str | int] | None = None,
) -> BinnedTokens:
    """Make a token with a binned value of each gene of a cell, in the order of the columns.

    scGPT's two paths are settings of this function. Zero-shot embedding and pretraining: raw counts, ``cls_value=-2``.
    Fine-tuning: ``target_sum=1e4, log1p=True, cls_value=0``, and often ``include_zero_genes=True``.

    Parameters
    ----------
    counts
        Raw counts, (n_cells, n_columns). Columns of a row may stand in any order.
    gene_ids
        Vocabulary id of each column, (n_columns,).
    cls_id, cls_value
        Token put first, and its value; None for no such token.
    target_sum
        Total, over these columns, that each cell is scaled to in float32; None leaves the counts as they are.
    log1p
        Take log(1 + x) after that.
    n_bins, ties
        As in :func:`bin_values`; the bins are those of all non-zero genes of the cell, also of genes that are not
        selected. None leaves the values as they are, for models that take expression itself.
    edges
        Rising edges of bins that are the same for all cells, in place of ``n_bins`` and ``ties``: bin 1 is below the
        first, and a value that an edge is equal to belongs to the bin above it.
    include_zero_genes
        Make tokens of genes without a count too, with value 0.
    max_length
        Most tokens a cell, the first one included; None for no limit.
    selection
        Which genes stay in a longer cell: ``"random"``, in random order; ``"highest"``, those of highest expression
        (the first of equal ones), or ``"first"``, both in the order of the columns.
    draws, selection_draws
        Where random bins, and random genes, are drawn from.
    cell_ids
        Names of the cells for the draws, (n_cells,).

    Raises
    ------
    ValueError
        If something random is asked for without draws and cell ids.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods.
    """
    columns, expression = _expressed(counts)
    if target_sum is not None:
        expression = _normalised(expression, target_sum)
    if log1p:
        expression = Ragged(np.log1p(expression.values), expression.offsets)
    values = expression
    if edges is not None:
        bins = np.searchsorted(np.asarray(edges), expression.values, side="right") + 1
        values = Ragged(np.where(expression.values > 0, bins, 0), expression.offsets)
    elif n_bins is not None:
        values = bin_values(expression, n_bins=n_bins, ties=ties, draws=draws, cell_ids=cell_ids).bins
    values = Ragged(values.values.astype(np.float32), values.offsets)
    if include_zero_genes:
        expression, values = (_with_zero_genes(columns, numbers, counts.shape[1]) for numbers in (expression, values))
        columns = Ragged.from_lengths(
            np.tile(np.arange(counts.shape[1]), len(columns)), [counts.shape[1]] * len(columns)
        )
    limit = None if max_length is None else max_length - (cls_id is not None)
    if limit is not None and columns.lengths.max(initial=0) > limit:
        kept = _select(expression, limit, selection, selection_draws, cell_ids)
        columns, values = (Ragged(part.values[kept.values], kept.offsets) for part in (columns, values))
    input_ids = Ragged(np.asarray(gene_ids, np.int64)[columns.values], columns.offsets)
    if cls_id is not None:
        input_ids, values = input_ids.surround([cls_id]), values.surround([cls_value])
    return BinnedTokens(input_ids, values)


def _expressed(counts: csr_array) -> tuple[Ragged, Ragged]:
    """Columns of each cell's non-zero values, rising, and the values in float32."""
    if not counts.has_sorted_indices or not counts.data.all():
        counts = counts.copy()
        counts.eliminate_zeros()
        counts.sort_indices()
    return Ragged(counts.indices, counts.indptr), Ragged(counts.data.astype(np.float32), counts.indptr)


def _normalised(expression: Ragged, target_sum: float) -> Ragged:
    totals = np.bincount(expression.row_numbers, expression.values, minlength=len(expression)).astype(np.float32)
    factors = totals / np.float32(target_sum)
    return Ragged(expression.values / np.repeat(factors, expression.lengths), expression.offsets)


def _with_zero_genes(columns: Ragged, numbers: Ragged, n_columns: int) -> Ragged:
    full = np.zeros((len(columns), n_columns), np.float32)
    full[columns.row_numbers, columns.values] = numbers.values
    return Ragged(full.ravel(), np.arange(len(columns) + 1) * n_columns)


def _select(
    expression: Ragged, limit: int, selection: Selection, draws: Draws | None, cell_ids: Sequence[str | int] | None
) -> Ragged:
    """Positions of the values that stay, cell after cell, at most ``limit`` each."""
    if selection not in ("random", "highest", "first"):
        raise ValueError(f'selection is "random", "highest" or "first"; got {selection!r}.')
    rows = []
    for row, (start, length) in enumerate(zip(expression.offsets.tolist(), expression.lengths.tolist(), strict=False)):
        if length <= limit or selection == "first":
            kept: NDArray[np.int64] = np.arange(min(length, limit))
        elif selection == "highest":
            kept = np.sort(np.argsort(-expression.row(row), kind="stable")[:limit])
        elif draws is None or cell_ids is None:
            raise ValueError(
                f"Cell {row} has {length} genes, more than fit; a random selection needs selection_draws=, for "
                'instance CellDraws(seed), and one of cell_ids= a cell. Or take selection="highest" or "first".'
            )
        else:
            kept = draws.cell(cell_ids[row]).choice(length, limit)
        rows.append(start + kept)
    return Ragged.from_rows(rows, np.int64)
