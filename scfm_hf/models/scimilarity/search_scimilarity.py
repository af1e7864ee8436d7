"""Cell search: queries pooled from cells, how well a query holds together, and which samples its hits come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scfm_hf.cells import CellMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_hf.models.scimilarity.reference_scimilarity import CellReference, Hits

#: Neighbours of each part of a query that are looked for among its hits.
_NEIGHBOURS_OF_A_PART = 100


def pool_cells(adata: anndata.AnnData, *, by: str, layer: str | None = None) -> anndata.AnnData:
    """Sum the counts of groups of cells: a centroid query, once embedded like a cell.

    SCimilarity's centroid is the profile of the pooled counts, not the mean of the cells' profiles or embeddings.

    Parameters
    ----------
    adata
        Raw counts.
    by
        Column of obs with the groups; cells without one are left out.
    layer
        Where the counts are, X otherwise.

    Returns
    -------
    A line a group, in the order of the categories, with ``obs["n_cells"]``; for ``scfm_hf.embed`` and
    :meth:`CellReference.nearest`.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no cell has a group.
    """
    if by not in adata.obs:
        raise KeyError(f"obs has no column {by!r}. It has: {', '.join(map(str, adata.obs))}.")
    groups = adata.obs[by].astype("category").cat.remove_unused_categories()
    names = groups.cat.categories
    if not len(names):
        raise ValueError(f"No cell has a group in obs[{by!r}].")
    codes = groups.cat.codes.to_numpy()
    matrix = CellMatrix(adata, layer=layer, gene_column="var_names")
    pooled = np.zeros((len(names), matrix.n_genes))
    for block in matrix.blocks():
        of_block = codes[block.rows]
        rows = np.flatnonzero(of_block >= 0)
        members = sparse.csr_array((np.ones(len(rows)), (of_block[rows], rows)), shape=(len(names), len(of_block)))
        pooled += (members @ block.counts.astype(np.float64)).toarray()
    n_cells = np.bincount(codes[codes >= 0], minlength=len(names))
    obs = pd.DataFrame({"n_cells": n_cells}, index=pd.Index(names.astype(str), name=by))
    return anndata.AnnData(sparse.csr_matrix(pooled), obs=obs, var=adata.var.copy())


def query_coherence(
    embeddings: NDArray[np.float32],
    found: NDArray[np.int64],
    reference: CellReference,
    *,
    n_parts: int = 10,
    seed: int = 4,
) -> float:
    """How well the cells of a pooled query fit together, 0 to 100.

    Parameters
    ----------
    embeddings
        Of the cells that were pooled, (n_cells, latent_size).
    found
        Reference cells that the query found.
    reference
        What was searched, 100 cells at least.
    n_parts
        Into how many parts the cells are divided, by k-means.
    seed
        Of k-means.

    Returns
    -------
    Mean over the parts of how many of the 100 reference cells nearest to the part's centre the query found too; few
    where the cells are of several kinds, and where the query found fewer cells than that.
    """
    from scipy.cluster.vq import kmeans

    centres, _ = kmeans(np.asarray(embeddings), n_parts, seed=seed)
    near = reference.nearest(centres, n_neighbors=_NEIGHBOURS_OF_A_PART).cells.reshape(len(centres), -1)
    return float(np.isin(near, found).sum(1).mean() * 100 / _NEIGHBOURS_OF_A_PART)


def sample_summary(
    hits: Hits, reference: CellReference, *, levels: Sequence[str] = ("study", "sample", "tissue", "disease")
) -> pd.DataFrame:
    """How many hits each query has in each sample, beside the sample's size.

    Parameters
    ----------
    hits
        What a search found.
    reference
        What was searched.
    levels
        Columns of the metadata to group by; ``study`` and ``sample`` among them.

    Returns
    -------
    A line a query and group: ``query``, the levels, ``cells`` (hits), ``total`` (cells of that study and sample in the
    reference) and ``fraction``, their ratio.
    """
    of_sample = ["study", "sample"]
    found = hits.table(reference).groupby(["query", *levels], observed=True).size().rename("cells").reset_index()
    totals = reference.metadata.groupby(of_sample, observed=True).size().rename("total").reset_index()
    joined = found.merge(totals, on=of_sample, how="left")
    return joined.assign(fraction=joined["cells"] / joined["total"])


def places_in_samples(
    reference: CellReference, *, levels: Sequence[str] = ("study", "sample", "data_type")
) -> pd.Series:
    """Place of each reference cell counted from the first of its sample, int64, (n_cells,).

    Samples stand together in the authors' index, so that this is the number of the cell in its sample's own file.
    """
    rows = pd.Series(np.arange(len(reference)), name="place")
    first = rows.groupby([reference.metadata[name] for name in levels], observed=True).transform("min")
    return rows - first
