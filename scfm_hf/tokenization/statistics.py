"""A rank tokenizer from one's own cells: which genes there are, and the median of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scfm_hf.cells import CellMatrix, check_expression
from scfm_hf.genes import GeneVocabulary, recognise_id_kind, recognise_species
from scfm_hf.tokenization.tokenizer import CellTokenizer

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_SPECIAL_TOKENS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


def nonzero_medians(
    matrix: CellMatrix, *, target_sum: float = 10_000.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median of each gene's scaled counts over the cells that express it.

    Parameters
    ----------
    matrix
        Raw counts.
    target_sum
        Total that every cell is scaled to.

    Returns
    -------
    Medians, float64, (n_genes,), NaN for a gene that no cell expresses; and the number of cells that express each gene,
    int64.

    Raises
    ------
    ExpressionError
        If the values are no counts.

    References
    ----------
    Theodoris et al. 2023, Nature 618, Methods, "Rank value encoding".
    """
    totals = check_expression(matrix).totals
    scaled = sparse.vstack(
        [
            sparse.diags_array(target_sum / totals[block.rows]) @ block.counts.astype(np.float64)
            for block in matrix.blocks()
        ],
        format="csc",
    )
    n_cells = np.diff(scaled.indptr)
    medians = np.full(matrix.n_genes, np.nan)
    for gene in np.flatnonzero(n_cells):
        medians[gene] = np.median(scaled.data[scaled.indptr[gene] : scaled.indptr[gene + 1]])
    return medians, n_cells.astype(np.int64)


def rank_tokenizer(
    adata: AnnData,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    min_cells: int = 10,
    max_length: int = 2048,
    species: str | None = None,
) -> CellTokenizer:
    """Make a rank tokenizer from cells of one's own, of any species.

    Parameters
    ----------
    adata
        Raw counts.
    layer, gene_column
        Where the counts and the names of the genes are.
    min_cells
        Genes that fewer cells express are left out.
    max_length
        Tokens a cell, ``<cls>`` and ``<eos>`` included.
    species
        Recognised from the names if not given.

    Returns
    -------
    A tokenizer with the scheme ``rank`` and the medians of these cells. Columns of the same name count as one gene: the
    median is that of the first.
    """
    matrix = CellMatrix(adata, layer=layer, gene_column=gene_column)
    medians, n_cells = nonzero_medians(matrix)
    kept: dict[str, float] = {}
    for gene in np.flatnonzero(n_cells >= min_cells):
        if matrix.gene_names[gene]:
            kept.setdefault(str(matrix.gene_names[gene]), float(medians[gene]))
    names = sorted(kept)
    found = species or recognise_species(names)
    vocabulary = GeneVocabulary(
        [*_SPECIAL_TOKENS.values(), *names],
        special_tokens=_SPECIAL_TOKENS,
        id_kind=recognise_id_kind(names),
        species=(found,) if found else (),
    )
    numbers = np.array([np.nan] * len(_SPECIAL_TOKENS) + [kept[name] for name in names])
    return CellTokenizer.from_vocabulary(
        vocabulary, scheme="rank", statistics={"median": numbers}, max_length=max_length, surround=True
    )
