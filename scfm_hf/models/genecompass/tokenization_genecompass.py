"""GeneCompass's scheme: genes ranked by counts relative to their median, each with its log value, and the species."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.rank import rank_genes
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock


class GeneCompassScheme(Scheme):
    """Orders each cell's genes by count / median, with the value log2(1 + count / median).

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["median"]`` (1 where the authors have none), and
        ``statistics["homolog"]``: id of the human homolog of a mouse gene.
    species
        Of the cells.
    target_sum
        Total that a cell's counts are scaled to; None leaves them, as the released script does.
    homologs_to_human
        Give mouse genes that have a human homolog its id.
    duplicates
        What becomes of columns that mean the same gene.
    """

    needs: ClassVar[tuple[str, ...]] = ("median",)
    from_corpus: ClassVar[Mapping[str, str]] = MappingProxyType({"median": "medians"})

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        species: Literal["human", "mouse"] = "human",
        target_sum: float | None = None,
        homologs_to_human: bool = False,
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if species not in ("human", "mouse"):
            raise ValueError(f"species={species!r} is neither 'human' nor 'mouse'.")
        if homologs_to_human and "homolog" not in statistics:
            raise ValueError(
                "homologs_to_human=True needs the homologs of the genes, which the tokenizer does not have. Convert "
                "the checkpoint with its homologous_hm_token.pickle."
            )
        self.species, self.target_sum, self.duplicates = species, target_sum, duplicates
        self.homologs_to_human = homologs_to_human

    @property
    def taken_for(self) -> str | None:
        """``species``."""
        return self.species

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids``, ``values``, and one ``species_ids`` a cell."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(0.0, np.float32), "species_ids": Column(0, per_cell=True)}

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Rank a block; see :meth:`Scheme.encode`."""
        totals = np.ones(block.n_cells) if self.target_sum is None else block.totals
        ranked = rank_genes(
            block.counts,
            totals,
            self.statistics["median"],
            gene_ids=block.gene_ids,
            max_genes=max_length,
            target_sum=1.0 if self.target_sum is None else self.target_sum,
        )
        ids = ranked.gene_ids
        if self.homologs_to_human:
            homologs = self.statistics["homolog"][ids.values]
            ids = Ragged(np.where(np.isnan(homologs), ids.values, homologs).astype(np.int64), ids.offsets)
        values = (np.log1p(ranked.scores.values) / np.log(2)).astype(np.float32)
        return {
            "input_ids": ids,
            "values": Ragged(values, ids.offsets),
            "species_ids": np.full(block.n_cells, int(self.species == "mouse")),
        }


SCHEME = GeneCompassScheme
