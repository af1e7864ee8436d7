"""Copies of real cells as they are met: with other genes, names, orders and formats, and aligned again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata


def as_it_is(cells: anndata.AnnData, folder: Path) -> Path:
    cells.write_h5ad(folder / "copy.h5ad")
    return folder / "copy.h5ad"


def other_gene_order(cells: anndata.AnnData, folder: Path) -> Path:
    return as_it_is(cells[:, np.random.default_rng(0).permutation(cells.n_vars)].copy(), folder)


def by_ensembl_id(cells: anndata.AnnData, folder: Path) -> Path:
    ids = cells.var["ensembl_id"].astype(str)
    cells = cells[:, (ids.str.startswith("ENSG") & ~ids.duplicated(keep=False)).to_numpy()].copy()
    cells.var_names = cells.var.pop("ensembl_id").astype(str) + ".7"
    return other_gene_order(cells, folder)


def by_symbol_alone(cells: anndata.AnnData, folder: Path) -> Path:
    del cells.var["ensembl_id"]
    return other_gene_order(cells, folder)


def dense_float64(cells: anndata.AnnData, folder: Path) -> Path:
    cells.X = cells.X.toarray().astype(np.float64)
    return as_it_is(cells, folder)


def int16_zarr(cells: anndata.AnnData, folder: Path) -> Path:
    cells.X = sparse.csr_matrix(cells.X.astype(np.int16))
    with warnings.catch_warnings():  # of formats to come
        warnings.simplefilter("ignore")
        cells.write_zarr(folder / "copy.zarr")
    return folder / "copy.zarr"


def without_rare_genes(cells: anndata.AnnData, folder: Path) -> Path:
    seen = np.asarray((cells.X > 0).sum(axis=0)).ravel()
    return by_ensembl_id(cells[:, seen >= 3].copy(), folder)


def most_variable_genes_only(cells: anndata.AnnData, folder: Path) -> Path:
    variance = np.asarray(cells.X.power(2).mean(axis=0)).ravel() - np.asarray(cells.X.mean(axis=0)).ravel() ** 2
    return by_symbol_alone(cells[:, np.argsort(-variance)[:2000]].copy(), folder)


DISGUISES = {
    disguise.__name__: disguise
    for disguise in (
        as_it_is,
        other_gene_order,
        by_ensembl_id,
        by_symbol_alone,
        dense_float64,
        int16_zarr,
        without_rare_genes,
        most_variable_genes_only,
    )
}


@pytest.fixture(params=list(DISGUISES))
def disguise(request: pytest.FixtureRequest) -> Callable[[anndata.AnnData, Path], Path]:
    """Write a copy of cells under other names, and say where."""

    def write(cells: anndata.AnnData, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        copy = cells.copy()
        copy.obs_names = [f"renamed-{row}" for row in range(copy.n_obs)]
        return DISGUISES[request.param](copy, folder)

    return write


def aligned_again(cells: anndata.AnnData, *, seed: int = 0, share: float = 0.04) -> anndata.AnnData:
    """The same barcodes counted by another annotation: some counts lost or won, some genes moved to others."""
    random = np.random.default_rng(seed)
    copy = cells.copy()
    counts = copy.X.toarray().astype(np.int64)
    counts = random.binomial(counts, 1 - share) + random.poisson(share * counts)
    moved = random.choice(copy.n_vars, copy.n_vars // 50, replace=False)
    counts[:, moved] = counts[:, random.permutation(moved)]
    copy.X = sparse.csr_matrix(counts.astype(np.float32))
    return copy[:, random.permutation(copy.n_vars)[: int(0.95 * copy.n_vars)]].copy()


@pytest.fixture
def pbmc(human_pbmc: anndata.AnnData, tmp_path: Path) -> Path:
    """A file of 72 real cells, the original."""
    (tmp_path / "original").mkdir()
    human_pbmc.write_h5ad(tmp_path / "original" / "pbmc.h5ad")
    return tmp_path / "original" / "pbmc.h5ad"
