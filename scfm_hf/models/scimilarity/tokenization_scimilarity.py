"""SCimilarity's scheme: log values per 10,000 counts of the expressed genes."""

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


class SCimilarityScheme(Scheme):
    """Aligns counts to the genes of the model and takes log(1 + count / total x target_sum).

    The profile is given by its expressed genes and their values; all others are zero. A whole profile is
    ``SCimilarityModel.profiles(**batch)``.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    target_sum
        Total that every cell is scaled to.
    total_over
        ``model_genes``: the total is over the genes that the model knows, as in the authors' tutorial (align, then
        normalise). ``all_genes``: over all genes of the file, as where cells were normalised before they were aligned;
        the embeddings differ.
    gene_order, duplicates
        ``vocabulary`` and ``sum`` make the result independent of the order of the file and of repeated columns.

    References
    ----------
    Heimberg et al. 2024, Nature 638, "A cell atlas foundation model for scalable search of similar human cells".
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        target_sum: float = 10_000.0,
        total_over: Literal["model_genes", "all_genes"] = "model_genes",
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if total_over not in ("model_genes", "all_genes"):
            raise ValueError(f"total_over={total_over!r} is neither 'model_genes' nor 'all_genes'.")
        self.target_sum, self.total_over = target_sum, total_over
        self.gene_order, self.duplicates = gene_order, duplicates

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(0.0, np.float32)}

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`.

        Raises
        ------
        ValueError
            If a cell has more genes than ``max_length``: a profile has no end that could be cut off.
        """
        csr = block.counts.sorted_indices()
        lengths = np.diff(csr.indptr)
        if lengths.max(initial=0) > max_length:
            raise ValueError(
                f"A cell expresses {lengths.max()} genes of the model, and max_length={max_length}. SCimilarity reads "
                "whole profiles: leave max_length out."
            )
        counts = csr.data.astype(np.float64)
        totals = block.totals
        if self.total_over == "model_genes":
            totals = np.asarray(csr.sum(axis=1, dtype=np.float64)).ravel()
        values = np.log1p(counts / np.repeat(totals, lengths) * self.target_sum)
        return {
            "input_ids": Ragged(block.gene_ids[csr.indices], csr.indptr.astype(np.int64)),
            "values": Ragged(values.astype(np.float32), csr.indptr.astype(np.int64)),
        }


SCHEME = SCimilarityScheme
