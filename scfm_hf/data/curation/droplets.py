"""Droplets that hold two cells, or much that is not their cell's: what established packages say of each sample."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scfm_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Of fewer cells, or cells of fewer genes, neither method can say anything.
_FEWEST_CELLS, _FEWEST_GENES = 100, 1000
_COMPONENTS = 30


class Judged(NamedTuple):
    """What a method says of the cells of a sample.

    Parameters
    ----------
    scores
        One a cell, float64, (n_cells,); NaN for cells that were not judged.
    flags
        Whether it is flagged, (n_cells,).
    """

    scores: NDArray[np.float64]
    flags: NDArray[np.bool_]


def doublets(counts: sparse.csr_array, *, expected_rate: float = 0.06, seed: int = 0) -> Judged:
    """Score the cells of one sample for being two cells, by Scrublet (in scanpy).

    Parameters
    ----------
    counts
        Of all cells of the sample, (n_cells, n_genes).
    expected_rate
        Share of doublets to expect.
    seed
        Of the simulated doublets.

    Returns
    -------
    Scrublet's scores, flagged above its own threshold; not judged where there are fewer than 100 cells of any counts or
    1,000 genes.

    Raises
    ------
    MissingExtraError
        If scanpy or scikit-image is not installed.

    References
    ----------
    Wolock et al. 2019, Scrublet, Cell Systems 8:281.
    """
    try:
        import scanpy
        import skimage  # noqa: F401  (Scrublet's threshold)
    except ImportError as error:
        raise MissingExtraError("scanpy[scrublet]", "curation") from error
    judged = _not_judged(counts.shape[0])
    cells = _cells_with_counts(counts)
    if cells is None:
        return judged
    sample = anndata.AnnData(sparse.csr_matrix(counts[cells].astype(np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The approximate search of scanpy 1.11, its choice for large samples, fails with pynndescent 0.7.
        scanpy.pp.scrublet(
            sample,
            expected_doublet_rate=expected_rate,
            random_state=seed,
            n_prin_comps=_COMPONENTS,
            use_approx_neighbors=False,
            verbose=False,
        )
    judged.scores[cells] = sample.obs["doublet_score"].to_numpy(np.float64)
    if "predicted_doublet" in sample.obs:  # absent where Scrublet finds no threshold
        judged.flags[cells] = sample.obs["predicted_doublet"].to_numpy(np.bool_)
    return judged


def ambient(counts: sparse.csr_array, *, max_share: float = 0.5, seed: int = 0) -> Judged:
    """Estimate which share of each cell's counts is of the ambient RNA of its sample, by DecontX.

    Without empty droplets, which a corpus seldom has, the ambient profile is estimated from the other clusters. The
    clusters are those of k-means on the principal components of the most variable genes.

    Parameters
    ----------
    counts
        Of all cells of the sample, (n_cells, n_genes).
    max_share
        Cells with a larger share are flagged.
    seed
        Of the clustering.

    Returns
    -------
    Shares from 0 to 1; not judged where there are fewer than 100 cells of any counts, 1,000 genes or two clusters.

    Raises
    ------
    MissingExtraError
        If decontx-scanpy or scanpy is not installed.

    References
    ----------
    Yang et al. 2020, Decontamination of ambient RNA in single-cell RNA-seq with DecontX, Genome Biology 21:57.
    """
    try:
        import pydecontx
    except ImportError as error:
        raise MissingExtraError("decontx-scanpy", "curation") from error
    judged = _not_judged(counts.shape[0])
    cells = _cells_with_counts(counts)
    if cells is None:
        return judged
    sample = sparse.csr_matrix(counts[cells].astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clusters = _clusters(sample, seed)
        if len(np.unique(clusters)) < 2:
            return judged
        # Genes without a count make DecontX divide by zero.
        seen = np.asarray(sample.sum(axis=0)).ravel() > 0
        found = pydecontx.decontx(
            sample[:, np.flatnonzero(seen)], z=clusters, compute_umap=False, seed=seed, verbose=False
        )
    judged.scores[cells] = np.asarray(found["contamination"], np.float64)
    judged.flags[cells] = judged.scores[cells] > max_share
    return judged


def _clusters(counts: sparse.csr_array, seed: int) -> NDArray[np.str_]:
    """Clusters of cells by their 2,000 most variable genes."""
    import scanpy
    from sklearn.cluster import KMeans

    sample = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    scanpy.pp.normalize_total(sample, target_sum=1e4)
    scanpy.pp.log1p(sample)
    scanpy.pp.highly_variable_genes(sample, n_top_genes=2000)
    scanpy.pp.pca(sample, n_comps=_COMPONENTS, random_state=seed)
    n_clusters = min(12, max(2, sample.n_obs // 50))
    labels = KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(sample.obsm["X_pca"])
    return pd.Series(labels).astype(str).to_numpy().astype(np.str_)


def _not_judged(n_cells: int) -> Judged:
    return Judged(np.full(n_cells, np.nan), np.zeros(n_cells, np.bool_))


def _cells_with_counts(counts: sparse.csr_array) -> NDArray[np.int64] | None:
    """Cells of any counts, None if there are too few of them or of genes."""
    cells = np.flatnonzero(np.diff(counts.indptr))
    seen = len(np.unique(counts.indices))
    return cells if len(cells) >= _FEWEST_CELLS and seen >= _FEWEST_GENES else None
