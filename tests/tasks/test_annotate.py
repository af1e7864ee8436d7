"""annotate: labels with probabilities, by neighbours, by a linear probe, or by a fine-tuned classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from scfm_hf import annotate

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

OPTIONS = {"min_overlap": 0.0, "progress": False}


@pytest.mark.parametrize("method", ["neighbours", "linear"])
def test_labels_of_a_reference_are_carried_over(human_pbmc: anndata.AnnData, model_folder: Path, method: str) -> None:
    query = human_pbmc[1::2].copy()
    result = annotate(query, model_folder, reference=human_pbmc[::2].copy(), method=method, n_neighbors=3, **OPTIONS)
    probabilities = result.obsm["cell_type_probabilities"]
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert list(probabilities.columns) == sorted(human_pbmc.obs["cell_type"].unique())
    best = probabilities.to_numpy().max(1)
    np.testing.assert_array_equal(result.obs["cell_type_probability"], best)
    assert (result.obs["cell_type_predicted"].astype(str) == probabilities.idxmax(axis=1)).all()
    assert result.uns["scfm"]["annotate"]["options"]["method"] == method
    assert "cell_type_predicted" not in query.obs


def test_reference_annotates_itself_by_its_nearest_neighbour(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    result = annotate(human_pbmc, model_folder, reference=human_pbmc, n_neighbors=1, **OPTIONS)
    assert (result.obs["cell_type_predicted"].astype(str) == result.obs["cell_type"].astype(str)).all()


def test_doubtful_cells_are_unknown_on_request(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    result = annotate(human_pbmc, model_folder, reference=human_pbmc, method="linear", unknown_below=0.9, **OPTIONS)
    doubtful = result.obs["cell_type_probability"] < 0.9
    assert ((result.obs["cell_type_predicted"] == "unknown") == doubtful).all()


def test_classifier_gives_its_own_classes(human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, num_labels=3, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    model.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "classifier")
    result = annotate(human_pbmc, tmp_path / "classifier", key_added="mine", **OPTIONS)
    assert list(result.obsm["mine_probabilities"].columns) == names
    again = annotate(human_pbmc, tmp_path / "classifier", key_added="mine", batch_size=1, **OPTIONS)
    np.testing.assert_allclose(result.obsm["mine_probabilities"], again.obsm["mine_probabilities"], atol=1e-6)


def test_cells_of_the_reference_without_a_label_are_left_out(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    reference = human_pbmc.copy()
    reference.obs.loc[reference.obs_names[:5], "cell_type"] = np.nan
    result = annotate(human_pbmc, model_folder, reference=reference, n_neighbors=1, **OPTIONS)
    assert result.obs["cell_type_predicted"].notna().all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "linear"}, ValueError, "reference="),
        ({"method": "votes"}, ValueError, "votes"),
        ({"labels": "kind"}, KeyError, "kind"),
    ],
)
def test_wrong_use_is_refused(
    human_pbmc: anndata.AnnData, model_folder: Path, options: dict[str, str], error: type[Exception], match: str
) -> None:
    reference = None if options.get("method") == "linear" else human_pbmc
    with pytest.raises(error, match=match):
        annotate(human_pbmc, model_folder, reference=reference, **options, **OPTIONS)
