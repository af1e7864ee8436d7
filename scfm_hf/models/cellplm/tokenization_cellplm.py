"""CellPLM's scheme: the counts of a cell's genes, and the set of cells that it belongs to."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock

logger = logging.get_logger(__name__)

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
    coordinates
        Two columns of obs with the place of a cell in its field of view, in [0, 1]; for models with
        ``use_positional_encoding``.
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
        coordinates: Sequence[str] | None = None,
        include_zero_genes: bool = False,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if max_cells_per_set is not None and max_cells_per_set < 1:
            raise ValueError(f"max_cells_per_set={max_cells_per_set} leaves no cell in a set.")
        self.cell_sets, self.max_cells_per_set = cell_sets, max_cells_per_set
        self.coordinates, self.include_zero_genes = coordinates, include_zero_genes
        self.gene_order, self.duplicates = gene_order, duplicates
        # Cells of each set so far: blocks come one after the other.
        self._seen: Counter[str] = Counter()

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``; where they are asked for, the number of each cell's set and its place."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {
            "input_ids": Column(pad),
            "values": Column(0.0, np.float32),
            "cell_sets": Column(-1, per_cell=True, joins_cells=True),
            "coordinates": Column(-1.0, np.float32, per_cell=True),
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
        if self.coordinates is not None:
            encoded["coordinates"] = self._places(block)
        if self.cell_sets is not None:
            encoded["cell_sets"] = self._numbers(block)
        else:
            logger.warning_once(
                "CellPLM reads cells in sets, and none were named: each cell is read alone, without its context. Name "
                'them with cell_sets="<column of obs>", or "all" for all cells of the file.'
            )
        return encoded

    def _places(self, block: ProfileBlock) -> NDArray[np.float32]:
        """Coordinates of each cell, (n_cells, 2)."""
        names = list(self.coordinates or ())
        absent = [name for name in names if name not in block.obs]
        if len(names) != 2 or absent:
            raise ValueError(f"coordinates={names} must be two columns of obs. It has: {', '.join(block.obs)}.")
        places = block.obs[names].to_numpy(np.float32)
        outside = ~((places >= 0) & (places <= 1)).all(1)
        if outside.any():
            first = ", ".join(map(str, block.obs.index[outside][:5]))
            raise ValueError(f"Coordinates must lie in [0, 1] of the field of view (not so: {first}). Scale them.")
        return places

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
