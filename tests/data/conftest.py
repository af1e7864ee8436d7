"""Small corpora of real cells, in several files, formats, gene orders and systems of ids."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@pytest.fixture(scope="module", params=["laptop", "cluster"])
def ray(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Ray on this machine with two processors, or as two nodes with one each; without dashboard and reports."""
    module = pytest.importorskip("ray", reason="needs the extra ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if request.param == "laptop":
        module.init(num_cpus=2, include_dashboard=False, **quiet)
        yield module
        module.shutdown()
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    module.init(address=cluster.address, **quiet)
    yield module
    module.shutdown()
    cluster.shutdown()
