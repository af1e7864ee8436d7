"""CellProfile's scheme: each expressed gene with its log value, scaled by how much the gene varies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock


class CellProfileScheme(Scheme):
    """Gives each expressed gene min(``largest``, log(1 + ``target_sum`` x count / total) / (deviation + ``floor``)).

    Nothing is subtracted: a gene that was not measured and one without a count are both 0, and take no token.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["deviation"]`` is the mean standard deviation of
        the log value of each gene within a study.
    target_sum
        Total that a cell's counts are scaled to.
    floor
        Added to the deviation, so that rare genes do not outweigh all others.
    largest
        Where values are cut.
    duplicates
        ``sum`` adds columns that mean the same gene.
    """

    needs: ClassVar[tuple[str, ...]] = ("deviation",)
    from_corpus: ClassVar[Mapping[str, str]] = MappingProxyType({"deviation": "deviations"})
    #: The vocabulary is a choice of genes that tell cells apart: neither most genes of a file nor most of its counts,
    #: which are of ribosomes and mitochondria.
    min_overlap: ClassVar[float] = 0.1

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        target_sum: float = 10_000.0,
        floor: float = 0.05,
        largest: float = 10.0,
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        self.target_sum, self.floor, self.largest, self.duplicates = target_sum, floor, largest, duplicates

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(0.0, np.float32)}

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`. Cells longer than ``max_length`` keep their highest values."""
        csr = block.counts.sorted_indices()
        ids = Ragged(block.gene_ids[csr.indices], csr.indptr)
        scale = np.divide(self.target_sum, block.totals, out=np.zeros(block.n_cells), where=block.totals > 0)
        deviation = self.statistics["deviation"][block.gene_ids][csr.indices]
        logs = np.log1p(csr.data.astype(np.float64) * np.repeat(scale, ids.lengths))
        values = np.minimum(logs / (np.nan_to_num(deviation) + self.floor), self.largest)
        if len(ids) and ids.lengths.max() > max_length:
            order = np.lexsort((-values, ids.row_numbers))
            kept = np.sort(order[ids.positions < max_length])
            ids, values = (
                Ragged.from_lengths(ids.values[kept], np.minimum(ids.lengths, max_length)),
                values[kept],
            )
        return {"input_ids": ids, "values": Ragged(values.astype(np.float32), ids.offsets)}


SCHEME = CellProfileScheme
