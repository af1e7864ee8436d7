"""Doublets and ambient RNA, as Scrublet and DecontX see them in real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from scipy import sparse

from scfm_hf.data.curation import curate_corpus
from scfm_hf.data.curation.droplets import ambient, doublets
from scfm_hf.data.examples import load_example

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def singlets() -> sparse.csr_array:
    """Some of the blood cells that ship with the library."""
    return sparse.csr_array(load_example("pbmc3k").X[:800])


def test_planted_doublets_have_high_scores(singlets: sparse.csr_array) -> None:
    pytest.importorskip("scanpy", reason="needs the extra curation")
    pytest.importorskip("skimage", reason="needs the extra curation")
    kinds = load_example("pbmc3k").obs["cell_type"].astype(str).to_numpy()[:800]
    b_cells, monocytes = (np.flatnonzero(np.char.startswith(kinds.astype(str), kind)) for kind in ("B", "CD14"))
    n_cells, n_pairs = singlets.shape[0], min(len(b_cells), len(monocytes), 40)
    planted = singlets[b_cells[:n_pairs]] + singlets[monocytes[:n_pairs]]
    cells = sparse.csr_array(sparse.vstack([singlets, planted]))
    judged = doublets(cells)
    assert np.isfinite(judged.scores).all()
    assert np.median(judged.scores[n_cells:]) > np.quantile(judged.scores[:n_cells], 0.75)
    again = doublets(cells)
    np.testing.assert_array_equal(judged.scores, again.scores)


def test_planted_ambient_counts_raise_the_share(singlets: sparse.csr_array) -> None:
    pytest.importorskip("pydecontx", reason="needs the extra curation")
    random = np.random.default_rng(0)
    profile = np.asarray(singlets.sum(axis=0)).ravel()
    spoilt = random.random(singlets.shape[0]) < 0.2
    depth = np.asarray(singlets.sum(axis=1)).ravel() * spoilt
    soup = sparse.csr_array(random.poisson(np.outer(depth, profile / profile.sum())))
    judged = ambient(singlets + soup)
    assert (judged.scores >= 0).all()
    assert (judged.scores <= 1).all()
    assert np.median(judged.scores[spoilt]) > np.median(judged.scores[~spoilt]) + 0.1


def test_few_cells_and_panels_are_not_judged(singlets: sparse.csr_array) -> None:
    pytest.importorskip("scanpy", reason="needs the extra curation")
    pytest.importorskip("pydecontx", reason="needs the extra curation")
    for judge in (doublets, ambient):
        for cells in (singlets[:50], singlets[:, :300]):
            judged = judge(sparse.csr_array(cells))
            assert np.isnan(judged.scores).all()
            assert not judged.flags.any()


def test_curation_judges_sample_by_sample(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="needs the extra curation")
    cells = load_example("pbmc3k")[:400].copy()
    cells.obs["lane"] = np.where(np.arange(cells.n_obs) < 50, "small", "large")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    curation = curate_corpus(tmp_path, sample_column="lane", find_doublets=True, progress=False)
    scores = curation.cells["doublet_score"]
    assert scores.iloc[:50].isna().all()
    np.testing.assert_array_equal(scores.iloc[50:], doublets(sparse.csr_array(cells.X[50:])).scores)
    assert isinstance(anndata.read_h5ad(tmp_path / "cells.h5ad").X, sparse.csr_matrix)
