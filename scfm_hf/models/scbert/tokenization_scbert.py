"""scBERT's scheme: every gene of the vocabulary with the bin of its log-normalised expression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.sparse import csr_array

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock

#: Which genes of the vocabulary a cell has tokens of.
Genes = Literal["all", "measured", "expressed"]


class ScBertScheme(Scheme):
    """Gives each gene the whole part of log2(1 + count x ``target_sum`` / total), at most ``n_bins``.

    A token with value 0 stands behind the genes. Offers the column ``expression`` (what was binned, float32) beside
    ``input_ids`` and ``values``. A cell without a count has that last token alone.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    n_bins
        Bins above that of 0: 5 in the released model. Values run from 0 to ``n_bins``; the next one is the mask.
    target_sum
        Total over the genes of the vocabulary that a cell's counts are scaled to.
    genes
        ``all`` of the vocabulary, those that the file lacks with value 0, as the original. ``measured``: those of the
        file. ``expressed``: those that the cell has a count of, which is several times faster, and not what the model
        was trained on.
    duplicates
        What becomes of columns that mean the same gene: ``sum`` or ``refuse``.

    References
    ----------
    Yang et al. 2022, Nature Machine Intelligence 4, Methods.
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        n_bins: int = 5,
        target_sum: float = 10_000.0,
        genes: Genes = "all",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if genes not in get_args(Genes):
            raise ValueError(f"genes={genes!r} is not one of {', '.join(map(repr, get_args(Genes)))}.")
        if duplicates not in ("sum", "refuse"):
            raise ValueError(f"duplicates={duplicates!r} is not one of 'sum', 'refuse': a gene has one place.")
        if not 1 <= n_bins < 127:
            raise ValueError(f"n_bins={n_bins} must be from 1 to 126.")
        self.n_bins, self.target_sum, self.genes, self.duplicates = n_bins, target_sum, genes, duplicates

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(0)}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The token behind the genes."""
        return (), (self.vocabulary.special_tokens["cls"],)

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Bin a block; see :meth:`Scheme.encode`.

        Raises
        ------
        ValueError
            If a cell has more tokens than ``max_length``: no gene is left out in silence.
        """
        genes, expression = self._tokens(block)
        longest = int(genes.lengths.max(initial=1))
        if longest > max_length:
            raise ValueError(
                f"max_length={max_length} is too short: scBERT reads all of its genes, {longest} tokens a cell here. "
                'Leave max_length out, or take fewer genes with genes="expressed".'
            )
        # In a small type, as the ids: a cell has thousands of tokens, and batches are made of int64 anyway.
        bins = Ragged(np.minimum(expression.values, self.n_bins).astype(np.int8), expression.offsets)
        return {"input_ids": genes, "values": bins, "expression": expression}

    def _tokens(self, block: ProfileBlock) -> tuple[Ragged, Ragged]:
        """Genes of each cell in the order of the vocabulary with the token behind them, int32, and their expression."""
        counts = block.counts.sorted_indices() if self.genes == "expressed" else block.counts
        logs = self._log_normalised(Ragged(counts.data.astype(np.float32), counts.indptr))
        end = self.vocabulary.token_to_id[self.vocabulary.special_tokens["cls"]]
        ids, columns = block.gene_ids.astype(np.int32), counts.indices
        if self.genes == "expressed":
            return Ragged(ids[columns], logs.offsets).surround([], [end]), logs.surround([], [0.0])
        if self.genes == "all":
            ids = self.vocabulary.ids(self.vocabulary.gene_tokens).astype(np.int32)
            columns = np.searchsorted(ids, block.gene_ids)[columns]
        ids = np.append(ids, np.int32(end))
        dense = csr_array((logs.values, columns, logs.offsets), shape=(block.n_cells, len(ids))).toarray()
        taken = np.ones(dense.shape, bool)
        taken[:, :-1] = (logs.lengths > 0)[:, None]
        lengths = taken.sum(1)
        flat_ids = np.broadcast_to(ids, dense.shape)[taken]
        return Ragged.from_lengths(flat_ids, lengths), Ragged.from_lengths(dense[taken], lengths)

    def _log_normalised(self, counts: Ragged) -> Ragged:
        """log2(1 + x) of counts scaled to ``target_sum``, in scanpy's order of operations: it decides the bins."""
        totals = np.bincount(counts.row_numbers, counts.values, minlength=len(counts)).astype(np.float32)
        factors = totals / np.float32(self.target_sum)
        scaled = counts.values / np.repeat(factors, counts.lengths)
        return Ragged((np.log1p(scaled).astype(np.float64) / math.log(2)).astype(np.float32), counts.offsets)


SCHEME = ScBertScheme
