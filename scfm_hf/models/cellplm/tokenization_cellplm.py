"""CellPLM's scheme: the counts of a cell's genes, and the set of cells that it belongs to."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock

#: Value of ``cell_sets`` by which all cells of a file are one set.
ALL_CELLS = "all"


class CellPLMScheme(Scheme):
    """Gives each gene of a cell its count; and each cell the number of its set.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    cell_sets
        Which cells see each other: a column of obs (those with the same label), ``"all"`` (all cells of the file, as
        the original where obs has no ``batch``), or None (each cell is a set of its own).
    max_cells_per_set
        Cut larger sets into consecutive parts of so many cells; None leaves them whole.
    include_zero_genes
        Also give the genes that were measured and have no count: what imputation and pretraining need.
    gene_order, duplicates
        ``vocabulary`` and ``sum`` make the result independent of the order of the file and of repeated columns.

    References
    ----------
    Wen et al. 2024, ICLR, "CellPLM: Pre-training of Cell Language Model Beyond Single Cells".
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        cell_sets: str | None = None,
        max_cells_per_set: int | None = None,
        include_zero_genes: bool = False,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if max_cells_per_set is not None and max_cells_per_set < 1:
            raise ValueError(f"max_cells_per_set={max_cells_per_set} leaves no cell in a set.")
        self.cell_sets, self.max_cells_per_set = cell_sets, max_cells_per_set
        self.include_zero_genes = include_zero_genes
        self.gene_order, self.duplicates = gene_order, duplicates
        # Cells of each set so far: blocks come one after the other.
        self._seen: Counter[str] = Counter()

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids``, ``values``, and the number of each cell's set where there are sets."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {
            "input_ids": Column(pad),
            "values": Column(0.0, np.float32),
            "cell_sets": Column(-1, per_cell=True, joins_cells=True),
        }

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`. Cells longer than ``max_length`` keep their highest counts."""
        if self.include_zero_genes:
            counts = block.counts.toarray()
            columns = np.tile(np.arange(counts.shape[1]), len(counts))
            genes = Ragged.from_lengths(columns, np.full(len(counts), counts.shape[1]))
            values = Ragged(counts.reshape(-1), genes.offsets)
        else:
            csr = block.counts.sorted_indices()
            genes, values = Ragged(csr.indices, csr.indptr), Ragged(csr.data, csr.indptr)
        if len(genes) and genes.lengths.max() > max_length:
            order = np.lexsort((-values.values.astype(np.float64), values.row_numbers))
            kept = np.sort(order[values.positions < max_length])
            lengths = np.minimum(genes.lengths, max_length)
            genes, values = (Ragged.from_lengths(part.values[kept], lengths) for part in (genes, values))
        encoded: dict[str, Ragged | NDArray[Any]] = {
            "input_ids": Ragged(block.gene_ids[genes.values], genes.offsets),
            "values": Ragged(values.values.astype(np.float32), values.offsets),
        }
        if self.cell_sets is not None:
            encoded["cell_sets"] = self._numbers(block)
        return encoded

    def _numbers(self, block: ProfileBlock) -> NDArray[np.int64]:
        """Number of each cell's set, from its label alone, so that blocks and files agree."""
        if self.cell_sets == ALL_CELLS:
            labels = [""] * block.n_cells
        elif self.cell_sets in block.obs:
            column = block.obs[self.cell_sets]
            if column.isna().any():
                first = ", ".join(map(str, block.obs.index[column.isna()][:5]))
                raise ValueError(f"Cells have no {self.cell_sets!r} and so no set (first: {first}). Give them one.")
            labels = column.astype(str).tolist()
        else:
            raise ValueError(
                f"cell_sets={self.cell_sets!r} is no column of obs. There are: {', '.join(map(repr, block.obs))}; "
                f"{ALL_CELLS!r} makes one set of all cells."
            )
        numbers = np.empty(block.n_cells, np.int64)
        for row, label in enumerate(labels):
            part = 0 if self.max_cells_per_set is None else self._seen[label] // self.max_cells_per_set
            self._seen[label] += 1
            digest = blake2b(f"{part}\0{label}".encode(), digest_size=8).digest()
            numbers[row] = int.from_bytes(digest, "big") >> 1
        return numbers


SCHEME = CellPLMScheme
