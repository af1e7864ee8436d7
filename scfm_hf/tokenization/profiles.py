"""From a file's gene columns to the genes that a model knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scfm_hf.errors import GeneIdError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from scfm_hf.genes import GeneVocabulary

#: What becomes of several columns that mean the same gene; ``sum_if_merged`` is Geneformer's own rule, see
#: ``merges_names``.
Duplicates = Literal["sum", "refuse", "keep", "sum_if_merged"]
#: In which order a scheme sees the genes: by vocabulary id, so that the order of the file does not matter, or as in the
#: file.
GeneOrder = Literal["vocabulary", "file"]


@dataclass(frozen=True)
class ProfileBlock:
    """A block of cells over the genes that the model knows.

    Parameters
    ----------
    counts
        Expression, (n_cells, n_known). Columns of a row need not be sorted.
    gene_ids
        Vocabulary id of each column, int64, (n_known,); ascending unless the order of the file was asked for.
    totals
        Total of each cell over **all** genes of the file, float64, (n_cells,).
    cell_ids
        Names of the cells, (n_cells,); seeds of steps that draw.
    obs
        Annotation of these cells.
    """

    counts: csr_array
    gene_ids: NDArray[np.int64]
    totals: NDArray[np.float64]
    cell_ids: NDArray[np.str_]
    obs: pd.DataFrame

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.counts.shape[0]


class GeneProjection:
    """Picks, orders and sums the columns of known genes; made once a file, applied block by block.

    Parameters
    ----------
    indices
        Vocabulary id of each column of the file, -1 where unknown, (n_columns,).
    duplicates
        ``sum`` adds columns of the same gene, ``refuse`` raises, ``keep`` leaves them apart (the gene then comes
        twice).
    order
        Order of the columns afterwards.

    Raises
    ------
    GeneIdError
        If there are such columns and they are to be refused.
    ValueError
        If ``duplicates`` or ``order`` is none of these words.
    """

    def __init__(
        self,
        indices: NDArray[np.int64],
        *,
        duplicates: Literal["sum", "refuse", "keep"] = "sum",
        order: GeneOrder = "vocabulary",
    ) -> None:
        for name, value, words in (
            ("duplicates", duplicates, get_args(Duplicates)),
            ("gene_order", order, get_args(GeneOrder)),
        ):
            if value not in words:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, words))}.")
        known = np.flatnonzero(indices >= 0)
        ids = indices[known]
        unique, first, position = np.unique(ids, return_index=True, return_inverse=True)
        repeated = len(unique) < len(ids)
        if repeated and duplicates == "refuse":
            times = np.bincount(position)
            raise GeneIdError(
                f"{int((times > 1).sum())} genes stand in several columns (first: columns "
                f"{known[position == np.argmax(times > 1)][:5].tolist()}). "
                'Sum them with duplicates="sum", or drop the columns that you do not mean.'
            )
        if duplicates == "keep":
            rank = np.argsort(ids, kind="stable") if order == "vocabulary" else np.arange(len(ids))
            self.gene_ids = ids[rank]
            target = np.empty(len(ids), np.int64)
            target[rank] = np.arange(len(ids))
            repeated = False
        elif order == "vocabulary":
            self.gene_ids, target = unique, position
        else:
            by_appearance = np.argsort(first, kind="stable")
            self.gene_ids = unique[by_appearance]
            place = np.empty(len(unique), np.int64)
            place[by_appearance] = np.arange(len(unique))
            target = place[position]
        self._target = np.full(len(indices), -1, np.int32)
        self._target[known] = target
        self._sums = repeated

    def __call__(self, counts: csr_array) -> csr_array:
        """Project a block, (n_cells, n_columns) -> (n_cells, n_known)."""
        target = self._target[counts.indices]
        kept = target >= 0
        if kept.all():
            data, indptr = counts.data, counts.indptr
        else:
            target, data = target[kept], counts.data[kept]
            indptr = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
        # Sums are made in place: never in the caller's own arrays.
        from scipy.sparse import csr_array

        projected = csr_array((data, target, indptr), shape=(counts.shape[0], len(self.gene_ids)), copy=self._sums)
        if self._sums:
            # A sum of small integer types must not overflow.
            projected.data = projected.data.astype(np.result_type(projected.data.dtype, np.float32), copy=False)
            projected.sum_duplicates()
        return projected


def merges_names(names: Sequence[str], vocabulary: GeneVocabulary, identifiers: Mapping[str, str]) -> bool:
    """Whether two different names of a file lead to one gene, as Geneformer's tokenizer asks before it sums columns.

    It compares the number of distinct names that it knows with the number of distinct genes that they lead to, in the
    letter case of the file. Literal duplicates are one name, so they alone do not count.
    """
    genes = {name: identifiers.get(name, name) for name in set(names) if name in identifiers or name in vocabulary}
    return len(set(genes.values())) != len(genes)
