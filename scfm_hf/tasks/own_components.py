"""Principal components of the cells at hand: variable genes, scaled, decomposed; what an analysis of one data set uses.

They depend on all the cells that are given, so they are no model's embedding, and never a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.tokenization import CellTokenizer

#: Genes that are kept, bins of genes of like mean in which dispersions are compared, and where scaled values are cut.
N_VARIABLE_GENES, N_BINS, LARGEST = 2000, 20, 10.0


def common_counts(adatas: Sequence[AnnData], tokenizer: CellTokenizer, **reading: Any) -> list[sparse.csr_array]:
    """Counts of several AnnDatas over the genes that all of them have, float32, (n_cells, n_common) each.

    A gene is known by the tokenizer's name for it, so that symbols and Ensembl ids meet; one that the tokenizer does
    not know by the file's own. Columns of the same gene are summed.

    Parameters
    ----------
    adatas
        The cells; never changed.
    tokenizer
        Whose vocabulary the genes are matched to.
    **reading
        ``layer``, ``use_raw`` and ``gene_column`` of :func:`scfm_hf.embed`; what else is in there is not used.

    Raises
    ------
    ValueError
        If they have fewer than two genes in common.
    """
    read = [_read(adata, tokenizer, **reading) for adata in adatas]
    common = sorted(set.intersection(*(set(names) for names, _ in read)))
    if len(common) < 2:
        raise ValueError(
            f"The data sets have {len(common)} genes in common: joined features need genes that all of them measured. "
            "Name the column of the genes with gene_column=, or use features='embedding'."
        )
    place = {name: number for number, name in enumerate(common)}
    found = []
    for names, counts in read:
        columns = np.array([place.get(name, -1) for name in names])
        known = np.flatnonzero(columns >= 0)
        entries = (np.ones(len(known), np.float32), (known, columns[known]))
        found.append(sparse.csr_array(counts @ sparse.csr_array(entries, shape=(len(names), len(common)))))
    return found


def _read(
    adata: AnnData,
    tokenizer: CellTokenizer,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    **_: Any,
) -> tuple[list[str], sparse.csr_array]:
    """Names of the genes, and all counts."""
    from scfm_hf.cells import CellMatrix, choose_gene_column
    from scfm_hf.genes import strip_version

    vocabulary = tokenizer.scheme().gene_vocabulary
    column = gene_column or choose_gene_column(
        adata, id_kind=vocabulary.id_kind, species=vocabulary.species, use_raw=use_raw
    )
    matrix = CellMatrix(adata, layer=layer, use_raw=use_raw, gene_column=column)
    own = [strip_version(name) for name in matrix.gene_names.tolist()]
    indices = tokenizer.mapper_of(vocabulary).map(matrix.gene_names.tolist()).indices
    names = [
        vocabulary.tokens[index] if index >= 0 else name for name, index in zip(own, indices.tolist(), strict=True)
    ]
    blocks = [sparse.csr_array(block.counts, dtype=np.float32) for block in matrix.blocks()]
    return names, sparse.csr_array(sparse.vstack(blocks))


def principal_components(
    groups: Sequence[sparse.csr_array],
    *,
    n_components: int = 50,
    n_genes: int = N_VARIABLE_GENES,
    fitted_on: int | None = None,
    seed: int = 0,
) -> list[NDArray[np.float32]]:
    """Components of variable genes, scaled and cut, of cells in groups, float32, (n_cells, n_components) each.

    Counts become log(1 + 10,000 x count / total). Genes are ranked in each group by the variance over mean of these,
    standardised among genes of like mean; those with the best mean rank are centred, scaled to unit variance over all
    cells, and cut at 10.

    Parameters
    ----------
    groups
        Counts of batches, or of reference and query, over the same genes.
    n_components, n_genes
        Components and variable genes; fewer if there are not so many.
    fitted_on
        So many first groups choose the genes and the components; None: all of them.
    seed
        Of the decomposition.

    Raises
    ------
    ValueError
        If no gene varies.
    """
    from sklearn.utils.extmath import randomized_svd

    values = [log_values(group) for group in groups]
    n_fitted = len(values) if fitted_on is None else fitted_on
    table = np.array([dispersion_ranks(*_moments(one)) for one in values[:n_fitted]])
    ranks = np.where(np.isnan(table), table.shape[1], table).mean(0)
    # A gene that varies in no group would only be divided by nothing.
    chosen = ranks.argsort(kind="stable")[: min(n_genes, int((~np.isnan(table)).any(0).sum()))]
    if not len(chosen):
        raise ValueError("No gene varies between the cells: there are no components to find.")
    dense = [one[:, chosen].toarray() for one in values]
    seen = np.concatenate(dense[:n_fitted])
    mean, deviation = seen.mean(0), seen.std(0) + 1e-6
    scaled = [np.clip((one - mean) / deviation, -LARGEST, LARGEST) for one in dense]
    seen = np.concatenate(scaled[:n_fitted])
    centre = seen.mean(0)
    _, _, axes = randomized_svd(seen - centre, min(n_components, *seen.shape), random_state=seed)
    return [((one - centre) @ axes.T).astype(np.float32) for one in scaled]


def log_values(counts: Any, totals: NDArray[Any] | None = None) -> sparse.csr_array:
    """log(1 + 10,000 x count / total), float32; totals of the cells themselves if none are given."""
    values = sparse.csr_array(counts, dtype=np.float32, copy=True)
    sums = np.asarray(values.sum(1)).ravel() if totals is None else totals
    values.data *= np.repeat((1e4 / np.maximum(sums, 1)).astype(np.float32), np.diff(values.indptr))
    np.log1p(values.data, out=values.data)
    return values


def _moments(values: sparse.csr_array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = np.asarray(values.mean(0), np.float64).ravel()
    return mean, np.maximum(np.asarray(values.multiply(values).mean(0), np.float64).ravel() - mean**2, 0)


def dispersion_ranks(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each gene's dispersion among genes of like mean, NaN where the gene is not expressed, (n_genes,).

    References
    ----------
    Satija et al. 2015, Nature Biotechnology 33:495: dispersions standardised within bins of the mean.
    """
    standard = np.full(len(mean), np.nan)
    expressed = mean > 0
    if expressed.any():
        dispersion = variance / np.maximum(mean, 1e-6)
        bins = np.digitize(mean, np.quantile(mean[expressed], np.linspace(0, 1, N_BINS + 1)[1:-1]))
        for number in range(N_BINS):
            inside = expressed & (bins == number)
            if inside.sum() > 2:
                standard[inside] = (dispersion[inside] - dispersion[inside].mean()) / (dispersion[inside].std() + 1e-9)
    ranks = np.full(len(mean), np.nan)
    counted = np.flatnonzero(~np.isnan(standard))
    ranks[counted[np.argsort(-standard[counted])]] = np.arange(len(counted))
    return ranks


def join_unit(*parts: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each part to unit length a cell and put them side by side, (n_cells, sum of widths); zeros stay zeros."""
    lengths = [np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9) for part in parts]
    return np.concatenate([part / length for part, length in zip(parts, lengths, strict=True)], axis=1).astype(
        np.float32
    )
