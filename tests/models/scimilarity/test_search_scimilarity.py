"""Queries pooled from cells, what is said of their hits, which genes matter, and how training is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from models.examples import Case, example_of
from scipy import sparse
from sklearn.metrics import silhouette_score

from scfm_hf.models.scimilarity.attribution_scimilarity import attribute_genes, integrated_gradients, rank_genes
from scfm_hf.models.scimilarity.metrics_scimilarity import (
    evaluation_score,
    ontology_silhouette,
    sampling_weights,
    scaled_error,
)
from scfm_hf.models.scimilarity.reference_scimilarity import CellReference
from scfm_hf.models.scimilarity.search_scimilarity import (
    places_in_samples,
    pool_cells,
    query_coherence,
    sample_summary,
)

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray


def groups(spread: float) -> NDArray[np.float32]:
    """Cells around three directions, 120 each."""
    random = np.random.default_rng(0)
    return (np.repeat(np.eye(3), 120, axis=0) + spread * random.normal(size=(360, 3))).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- queries


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_pooled_counts_are_the_sums_of_groups(human_pbmc: anndata.AnnData, form: type) -> None:
    cells = human_pbmc[:20].copy()
    dense = cells.X.toarray()
    cells.X = form(dense)
    cells.obs["group"] = pd.Categorical([None, "b", "a", "b"] * 5, categories=["b", "a", "unused"])
    pooled = pool_cells(cells, by="group")
    assert pooled.obs_names.tolist() == ["b", "a"]
    assert pooled.obs["n_cells"].tolist() == [10, 5]
    for number, name in enumerate(pooled.obs_names):
        assert np.array_equal(pooled.X[number].toarray().ravel(), dense[cells.obs["group"] == name].sum(0))
    with pytest.raises(KeyError, match="no column 'cluster'"):
        pool_cells(cells, by="cluster")
    cells.obs["group"] = None
    with pytest.raises(ValueError, match="No cell has a group"):
        pool_cells(cells, by="group")


def test_a_query_of_one_kind_holds_together_and_one_of_several_does_not() -> None:
    reference = CellReference(groups(0.1), pd.DataFrame(index=range(360)))
    of_one_kind, of_all = groups(0.1)[:60], groups(0.1)[::6]
    found = reference.nearest([[1, 0, 0]], n_neighbors=120).cells
    assert query_coherence(of_one_kind, found, reference, n_parts=1) > 70
    assert query_coherence(of_all, found, reference, n_parts=3) < 40


def test_hits_are_counted_by_sample() -> None:
    metadata = pd.DataFrame({"study": ["x", "x", "x", "y"], "sample": ["1", "1", "2", "1"], "tissue": "lung"})
    metadata["data_type"] = ["train", "train", "train", "test"]
    reference = CellReference(np.eye(4), metadata)
    hits = reference.nearest(np.eye(4)[:2] + 0.01, n_neighbors=4)
    table = sample_summary(hits, reference, levels=["study", "sample", "tissue"])
    assert table["query"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table["cells"].tolist() == [2, 1, 1] * 2
    assert table["total"].tolist() == [2, 1, 1] * 2
    assert table["fraction"].tolist() == [1.0] * 6
    assert places_in_samples(reference).tolist() == [0, 1, 0, 0]


# --------------------------------------------------------------------------------------------------------- attribution


def test_shares_of_the_genes_add_up_to_the_distance() -> None:
    case = Case(example_of("scimilarity"), "SCimilarityModel")
    model = case.model().train()
    profiles = model.profiles(**case.inputs())
    anchors, negatives = profiles[:3], profiles[3:6]
    shares = integrated_gradients(model, anchors, negatives, n_steps=200)
    assert model.training
    model.eval()
    with torch.no_grad():
        distances = (model(values=anchors).latent - model(values=negatives).latent).square().sum(1)
    assert np.allclose(shares.sum(1), distances, rtol=2e-2, atol=1e-3)

    found = attribute_genes(model, anchors, negatives, n_steps=200)
    more = (anchors > negatives).numpy()
    assert np.array_equal(found[more], np.abs(shares[more]))
    assert (found[~more] == 0).all()
    assert (attribute_genes(model, anchors, anchors) == 0).all()
    with pytest.raises(ValueError, match="each anchor needs one negative"):
        attribute_genes(model, anchors, negatives[:1])


def test_genes_are_ranked_by_mean_attribution() -> None:
    table = rank_genes(np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 1.0]]), ["A", "B", "C"])
    assert table["gene"].tolist() == ["B", "A", "C"]
    assert table["index"].tolist() == [1, 0, 2]
    assert table["attribution"].tolist() == [5.0, 2.0, 0.5]
    assert table["attribution_std"].tolist() == [0.0, 1.0, 0.5]


# ------------------------------------------------------------------------------------------------------------- metrics


def test_silhouette_is_the_usual_one_without_an_ontology() -> None:
    embeddings, labels = groups(0.5), np.repeat(["a", "b", "c"], 120).tolist()
    expected = silhouette_score(embeddings, labels, metric="sqeuclidean")
    assert ontology_silhouette(embeddings, labels) == pytest.approx(expected)
    assert ontology_silhouette(embeddings, labels, as_original=True) < expected


def test_silhouette_knows_what_is_below_and_above_a_label() -> None:
    embeddings, labels = groups(0.1), np.repeat(["a", "below a", "c"], 120).tolist()
    related = ontology_silhouette(embeddings, labels, ancestors={"below a": ["a"]})
    apart = ontology_silhouette(embeddings, labels)
    assert apart > 0.9
    assert related < apart - 0.1
    with pytest.raises(ValueError, match="told from"):
        ontology_silhouette(embeddings[:240], labels[:240], ancestors={"below a": ["a"]})
    with pytest.raises(ValueError, match="No label has three cells"):
        ontology_silhouette(embeddings[:2], ["a", "c"])


def test_training_is_judged_by_both_losses() -> None:
    profiles = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert scaled_error(0.25, profiles) == 0.5
    assert evaluation_score(1.0, 0.25, profiles) == 0.5
    assert evaluation_score(-1.0, 0.25, profiles) == 1.5


def test_common_labels_and_large_studies_weigh_less() -> None:
    labels, studies = ["rare"] * 2 + ["common"] * 8, ["small"] + ["large"] * 9
    assert sampling_weights(labels).tolist() == [0.5] * 2 + [0.125] * 8
    weights = sampling_weights(labels, studies)
    assert weights[0] > weights[1] > weights[2] == weights[9]
    assert weights[1] == pytest.approx(1 / np.log1p(2e-4) / np.log1p(9e-6))
