"""integrate: one space for cells of several batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from scfm_hf import annotate, embed, integrate

if TYPE_CHECKING:
    import anndata

MODEL = "scfm_hf/cellprofile-human"
OPTIONS = {"progress": False}


def in_batches(adata: anndata.AnnData) -> anndata.AnnData:
    """The cells, dealt into two batches."""
    dealt = adata.copy()
    dealt.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    return dealt


def test_by_default_it_is_the_models_embedding_of_each_cell_alone(human_pbmc: anndata.AnnData) -> None:
    cells = in_batches(human_pbmc)
    result = integrate(cells, MODEL, batch_key="batch", **OPTIONS)
    embedded = embed(cells, MODEL, **OPTIONS)
    np.testing.assert_array_equal(result.obsm["X_integrated"], embedded.obsm["X_cellprofile"])
    assert "X_integrated" not in cells.obsm
    told = result.uns["scfm"]["integrate"]
    assert told["options"]["mode"] == "embedding"
    assert told["model"] == MODEL


def test_joined_puts_components_of_these_cells_beside_it(human_pbmc: anndata.AnnData) -> None:
    cells = in_batches(human_pbmc)
    integrate(cells, MODEL, batch_key="batch", mode="joined", n_components=10, inplace=True, **OPTIONS)
    vectors = cells.obsm["X_integrated"]
    width = embed(cells, MODEL, **OPTIONS).obsm["X_cellprofile"].shape[1]
    assert vectors.shape == (cells.n_obs, width + 10)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :width], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, width:], axis=1), 1, atol=1e-5)
    options = cells.uns["scfm"]["integrate"]["options"]
    assert options["mode"] == "joined"
    assert options["batch_key"] == "batch"
    again = integrate(in_batches(human_pbmc), MODEL, batch_key="batch", mode="joined", n_components=10, **OPTIONS)
    np.testing.assert_array_equal(again.obsm["X_integrated"], vectors)


def test_cells_of_a_batch_go_back_to_their_places(human_pbmc: anndata.AnnData) -> None:
    """Whichever batch a cell is in: its nearest neighbours are cells of its own type."""
    cells = in_batches(human_pbmc[human_pbmc.obs["cell_type"].isin(["B", "CD14+ Mono"])].copy())
    space = integrate(cells, MODEL, batch_key="batch", mode="joined", n_components=5, **OPTIONS).obsm["X_integrated"]
    nearest = np.argsort(-space @ space.T, axis=1)[:, 1:4]
    types = cells.obs["cell_type"].astype(str).to_numpy()
    assert (types[nearest] == types[:, None]).mean() > 0.9


@pytest.mark.parametrize("method", ["neighbours", "linear"])
def test_annotate_tells_labels_from_joined_features(human_pbmc: anndata.AnnData, method: str) -> None:
    cells = human_pbmc[human_pbmc.obs["cell_type"] != "unassigned"].copy()
    query, reference = cells[1::2].copy(), cells[::2].copy()
    options = {"reference": reference, "method": method, "n_neighbors": 5, "n_components": 10, **OPTIONS}
    result = annotate(query, MODEL, features="joined", **options)
    plain = annotate(query, MODEL, **options)
    assert (result.obs["cell_type_predicted"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.6
    assert result.uns["scfm"]["annotate"]["options"]["features"] == "joined"
    assert plain.uns["scfm"]["annotate"]["options"]["features"] == "embedding"
    assert not np.allclose(result.obsm["cell_type_probabilities"], plain.obsm["cell_type_probabilities"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mode": "harmony"}, ValueError, "harmony"),
        ({"batch_key": "plate"}, KeyError, "plate"),
        ({"batch_key": "batch"}, ValueError, "1 cells have no 'batch'"),
    ],
)
def test_wrong_use_is_refused(
    human_pbmc: anndata.AnnData, options: dict[str, str], error: type[Exception], match: str
) -> None:
    cells = in_batches(human_pbmc)
    cells.obs.loc[cells.obs_names[3], "batch"] = np.nan
    with pytest.raises(error, match=match):
        integrate(cells, MODEL, **options, **OPTIONS)


@pytest.mark.parametrize(("options", "match"), [({"features": "pca"}, "pca"), ({"method": "classifier"}, "classifier")])
def test_annotate_refuses_other_features(human_pbmc: anndata.AnnData, options: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        annotate(human_pbmc, MODEL, reference=human_pbmc, **{"features": "joined", **options}, **OPTIONS)
