"""Small corpora of real cells, in several files, formats, gene orders and systems of ids."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def corpus_cells(data_dir: Path) -> anndata.AnnData:
    """72 real blood cells over their 2,000 most expressed genes; ``obs["cell"]`` numbers them. Not to be changed."""
    cells = anndata.read_h5ad(data_dir / "human_pbmc.h5ad")
    cells.obs["cell"] = np.arange(72)
    return cells[:, np.sort(np.argsort(-np.asarray(cells.X.sum(0)).ravel())[:2000])].copy()


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, corpus_cells: anndata.AnnData) -> Path:
    """These cells in three files: by symbol, by Ensembl id in another order, and dense."""
    folder = tmp_path_factory.mktemp("corpus")
    symbols, ids, dense = corpus_cells[:30].copy(), corpus_cells[30:55].copy(), corpus_cells[55:].copy()
    symbols.write_h5ad(folder / "a.h5ad", compression="gzip")
    kept = ids.var["ensembl_id"].astype(str).str.startswith("ENSG") & ~ids.var["ensembl_id"].astype(str).duplicated()
    ids = ids[:, np.random.default_rng(0).permutation(np.flatnonzero(kept))].copy()
    ids.var_names = ids.var.pop("ensembl_id").astype(str)
    ids.X = sparse.csr_matrix(ids.X.astype(np.int32))
    ids.write_h5ad(folder / "b.h5ad")
    dense.X = dense.X.toarray()
    with warnings.catch_warnings():  # of formats to come
        warnings.simplefilter("ignore")
        dense.write_zarr(folder / "c.zarr")
    return folder
