"""The labelled example cells, and how they are parted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

LABELS = "cell_type"
#: How a model of these cells reads them: genes by Ensembl id; its vocabulary leaves out rare genes, which hold few
#: counts.
READING: dict[str, Any] = {"gene_column": "ensembl_id", "min_overlap": 0.3}


def split_cells(n_cells: int | None, seed: int) -> tuple[AnnData, AnnData]:
    """The labelled example cells, four fifths to learn from, the rest held out, by class."""
    from sklearn.model_selection import train_test_split

    from scfm_hf.data.examples import load_example

    adata = load_example("pbmc3k")
    known = adata.obs[LABELS].notna() & (adata.obs[LABELS].astype(str) != "unassigned")
    adata = adata[known].copy()
    adata.obs[LABELS] = adata.obs[LABELS].cat.remove_unused_categories()
    if n_cells is not None and n_cells < adata.n_obs:
        kept, _ = train_test_split(
            np.arange(adata.n_obs), train_size=n_cells, stratify=adata.obs[LABELS], random_state=seed
        )
        adata = adata[np.sort(kept)].copy()
    rows = np.arange(adata.n_obs)
    train, test = train_test_split(rows, test_size=0.2, stratify=adata.obs[LABELS], random_state=seed)
    return adata[np.sort(train)].copy(), adata[np.sort(test)].copy()


def few_of_each(adata: AnnData, n_cells: int, draw: int) -> AnnData:
    """So many cells of each class, drawn at random; all of a class that has fewer."""
    random = np.random.default_rng(draw)
    order = random.permutation(adata.n_obs)
    labels = adata.obs[LABELS].astype(str).to_numpy()[order]
    rows = np.concatenate([order[labels == name][:n_cells] for name in np.unique(labels)])
    return adata[np.sort(rows)].copy()
