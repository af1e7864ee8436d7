"""CellLM's scheme: ``<cls>``, then the expressed genes in the model's order, each with its expression as a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock


class CellLMScheme(Scheme):
    """Gives each expressed gene of a cell its log-normalised expression as a whole number.

    The authors publish no preprocessing of cells: "normalised by library size and log-transformed", and values are cut
    off at 5. The defaults are those of scBERT, whose processed data set CellLM shares. Offers the column ``expression``
    (what was rounded down, float32, 0 at special tokens) beside ``input_ids`` and ``values``.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    target_sum
        Total over the genes of the vocabulary that a cell is scaled to; None leaves counts as they are.
    log_base
        Base of log(1 + x): ``2`` or ``e``; None takes no logarithm.
    highest_value
        Highest token of expression; larger values become it. The tokens of ``<cls>`` and padding follow.
    gene_order, duplicates
        ``vocabulary`` and ``sum`` make the result independent of the order of the file and of repeated columns. The
        genes of the end of the order are lost where a cell is longer than the context, as in the original.

    References
    ----------
    Zhao et al. 2023, arXiv 2306.04371, section 3.
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        target_sum: float | None = 10_000.0,
        log_base: Literal["2", "e"] | None = "2",
        highest_value: int = 5,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if log_base not in ("2", "e", None):
            raise ValueError(f"log_base={log_base!r} is not one of '2', 'e', None.")
        self.target_sum, self.log_base, self.highest_value = target_sum, log_base, highest_value
        self.gene_order, self.duplicates = gene_order, duplicates
        self._cls, self._pad = (vocabulary.token_to_id[vocabulary.special_tokens[role]] for role in ("cls", "pad"))

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` (genes) and ``values`` (tokens of their expression)."""
        return {"input_ids": Column(self._pad), "values": Column(self.highest_value + 2)}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``<cls>`` before the genes."""
        return (self.vocabulary.special_tokens["cls"],), ()

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`."""
        counts = block.counts.sorted_indices()
        counts.eliminate_zeros()
        values = counts.data.astype(np.float64)
        if self.target_sum is not None:
            totals = counts.sum(axis=1, dtype=np.float64)
            scale = self.target_sum / np.where(totals == 0, 1.0, totals)
            values = values * np.repeat(scale, np.diff(counts.indptr))
        if self.log_base is not None:
            values = np.log2(1 + values) if self.log_base == "2" else np.log1p(values)
        expression = Ragged(values.astype(np.float32), counts.indptr).head(max_length - 1)
        genes = Ragged(block.gene_ids[counts.indices], counts.indptr).head(max_length - 1)
        tokens = np.minimum(expression.values, self.highest_value).astype(np.int64)
        return {
            "input_ids": genes.surround(np.array([self._cls])),
            "values": Ragged(tokens, genes.offsets).surround(np.array([self.highest_value + 1])),
            "expression": expression.surround(np.zeros(1, np.float32)),
        }


SCHEME = CellLMScheme
