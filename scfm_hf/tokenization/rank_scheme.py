"""The rank scheme: genes by scaled expression, highest first (Geneformer and its kin)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.rank import Ties, rank_genes
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock


class RankScheme(Scheme):
    """Orders each cell's genes by counts / total x ``target_sum`` / median of the gene.

    Offers two columns beside ``input_ids``: ``scores`` (what was ranked, float64) and ``counts`` (counts scaled to
    ``target_sum``, float64), both 0 at special tokens.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["median"]`` is the non-zero median of each gene.
    surround
        Put ``<cls>`` first and ``<eos>`` last.
    target_sum
        Total that a cell's counts are scaled to.
    ties
        ``stable`` keeps genes of equal score in the order of the vocabulary; ``unstable`` is the original's unspecified
        order.
    duplicates
        ``sum`` adds columns that mean the same gene; ``sum_if_merged`` is the original's rule, by which literal
        duplicates come twice unless somewhere two different names meet; ``keep`` and ``refuse`` speak for themselves.

    References
    ----------
    Theodoris et al. 2023, Nature 618, Methods, "Rank value encoding".
    """

    needs: ClassVar[tuple[str, ...]] = ("median",)
    from_corpus: ClassVar[Mapping[str, str]] = MappingProxyType({"median": "medians"})

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        surround: bool = False,
        target_sum: float = 10_000.0,
        ties: Ties = "stable",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        self.surround, self.target_sum, self.ties, self.duplicates = surround, target_sum, ties, duplicates

    @classmethod
    def options_of(cls, roles: Collection[str], groups: Collection[str] = ()) -> dict[str, Any]:
        """Cells stand between ``cls`` and ``eos`` where there are both."""
        return {"surround": True} if {"cls", "eos"} <= set(roles) else {}

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` alone: no value enters the model."""
        return {"input_ids": Column(self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]])}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``<cls>`` and ``<eos>``, where wanted."""
        special = self.vocabulary.special_tokens
        return ((special["cls"],), (special["eos"],)) if self.surround else ((), ())

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Rank a block; see :meth:`Scheme.encode`."""
        before, after = self.surrounding_tokens
        medians = self.statistics["median"]
        ranked = rank_genes(
            block.counts,
            block.totals,
            medians,
            gene_ids=block.gene_ids,
            max_genes=max_length - len(before) - len(after),
            target_sum=self.target_sum,
            ties=self.ties,
        )
        scaled = Ragged(ranked.scores.values * medians[ranked.gene_ids.values], ranked.scores.offsets)
        ids = self.vocabulary.token_to_id
        zeros = [0.0] * len(before), [0.0] * len(after)
        return {
            "input_ids": ranked.gene_ids.surround([ids[token] for token in before], [ids[token] for token in after]),
            "scores": ranked.scores.surround(*zeros),
            "counts": scaled.surround(*zeros),
        }
