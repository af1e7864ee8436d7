"""Reference cells: read from the authors' index, searched exactly, and voting for labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.scimilarity.originals import write_hnswlib
from scipy.spatial.distance import cdist

from scfm_hf.errors import CheckpointError
from scfm_hf.models.scimilarity.annotation_scimilarity import annotate_by_neighbours
from scfm_hf.models.scimilarity.hnswlib_scimilarity import read_hnswlib
from scfm_hf.models.scimilarity.reference_scimilarity import CellReference

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

N_CELLS, SIZE = 40, 5


def points(seed: int, n_cells: int = N_CELLS) -> NDArray[np.float32]:
    given = np.random.default_rng(seed).normal(size=(n_cells, SIZE)).astype(np.float32)
    return given / np.linalg.norm(given, axis=1, keepdims=True)


@pytest.fixture
def reference() -> CellReference:
    """Cells of three labels and two tissues."""
    labels = np.array(["B cell", "T cell", "monocyte"])[np.arange(N_CELLS) % 3]
    tissues = np.array(["lung", "blood"])[np.arange(N_CELLS) // 20]
    return CellReference(points(0), pd.DataFrame({"label": labels, "tissue": tissues}, index=range(100, 140)))


# --------------------------------------------------------------------------------------------------------------- files


def test_vectors_come_out_of_an_index_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    vectors, order = points(1, 7), np.random.default_rng(2).permutation(7)
    index = write_hnswlib(tmp_path / "labelled_kNN.bin", vectors[order], order.tolist())
    assert np.array_equal(read_hnswlib(index), vectors)
    labels = tmp_path / "reference_labels.tsv"
    labels.write_text("".join(f"T cell\tstudy {number}\n" for number in range(7)))
    reference = CellReference.from_hnswlib(index, labels)
    assert reference.metadata["study"].tolist() == [f"study {number}" for number in range(7)]
    labels.write_text("T cell\tstudy\n")
    with pytest.raises(CheckpointError, match="7 cells, the metadata 1"):
        CellReference.from_hnswlib(index, labels)


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    index = write_hnswlib(tmp_path / "index.bin", points(1, 7), range(7))
    whole = index.read_bytes()
    index.write_bytes(whole[:-20])
    with pytest.raises(CheckpointError, match="promises 7 cells and holds 6"):
        read_hnswlib(index)
    for content in (whole[:50], b"<html>" * 40, bytes(500)):
        index.write_bytes(content)
        with pytest.raises(CheckpointError, match="no index file of hnswlib"):
            read_hnswlib(index)
    with pytest.raises(CheckpointError, match="authors' download"):
        read_hnswlib(tmp_path / "absent.bin")
    write_hnswlib(index, points(1, 3), [0, 1, 1])
    with pytest.raises(CheckpointError, match="does not number its cells"):
        read_hnswlib(index)


def test_a_reference_comes_back_as_it_was_saved(reference: CellReference, tmp_path: Path) -> None:
    reference.save(tmp_path / "reference")
    loaded = CellReference.load(tmp_path / "reference")
    assert np.allclose(loaded.embeddings, reference.embeddings, atol=1e-7)
    assert loaded.metadata.equals(reference.metadata)
    with pytest.raises(FileExistsError):
        reference.save(tmp_path / "reference")


def test_embeddings_and_metadata_must_fit() -> None:
    with pytest.raises(ValueError, match="40 embeddings, and 3 lines"):
        CellReference(points(0), pd.DataFrame({"label": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match=r"2 embeddings of the reference are zero or not finite \(first: \[1, 3\]\)"):
        CellReference(points(0, 5) * np.array([[1], [0], [1], [np.nan], [1]]), pd.DataFrame(index=range(5)))


# -------------------------------------------------------------------------------------------------------------- search


@settings(deadline=None)
@given(seed=st.integers(0, 1000), n_neighbors=st.integers(1, N_CELLS), scale=st.floats(0.1, 10))
def test_search_is_exact(seed: int, n_neighbors: int, scale: float) -> None:
    reference, queries = CellReference(points(0), pd.DataFrame(index=range(N_CELLS))), points(seed + 1, 6)
    distances = cdist(queries, reference.embeddings, "cosine")
    hits = reference.nearest(scale * queries, n_neighbors=n_neighbors)
    expected = np.sort(distances, axis=1)[:, :n_neighbors]
    assert np.allclose(hits.distances.reshape(6, -1), expected, atol=1e-6)
    assert np.allclose(distances[hits.queries, hits.cells], hits.distances, atol=1e-6)
    within = reference.within(queries, max_distance=0.3)
    assert within.counts.tolist() == (distances <= 0.3).sum(1).tolist()
    assert np.allclose(distances[within.queries, within.cells], within.distances, atol=1e-6)
    for query in range(6):
        assert (np.diff(within.of(query)[1]) >= 0).all()


def test_search_is_confined_to_chosen_cells(reference: CellReference) -> None:
    among = reference.matching(tissue="lung", label=["B cell", "T cell"])
    hits = reference.nearest(points(5, 3), n_neighbors=4, among=among)
    assert among[hits.cells].all()
    table = hits.table(reference)
    assert list(table) == ["query", "cell", "distance", "label", "tissue"]
    assert set(table["tissue"]) == {"lung"}
    assert (table["label"] == reference.metadata["label"].to_numpy()[table["cell"]]).all()


def test_a_search_that_cannot_be_is_refused(reference: CellReference) -> None:
    with pytest.raises(ValueError, match="n_neighbors=50, and there are 40 cells"):
        reference.nearest(points(1, 2), n_neighbors=50)
    with pytest.raises(ValueError, match="nothing to search among"):
        reference.within(points(1, 2), max_distance=1.0, among=reference.matching(tissue="skin"))
    with pytest.raises(KeyError, match="no column 'organ'"):
        reference.matching(organ="lung")
    with pytest.raises(ValueError, match=r"1 embeddings of the queries.*\[1\]"):
        reference.nearest(np.array([[1.0] * SIZE, [np.nan] * SIZE]), n_neighbors=1)


def test_no_hit_is_no_error(reference: CellReference) -> None:
    hits = reference.within(points(6, 2), max_distance=0.0)
    assert len(hits) == 0
    assert hits.counts.tolist() == [0, 0]
    assert hits.table(reference).empty


# ---------------------------------------------------------------------------------------------------------- annotation


def on_a_circle(degrees: list[float]) -> NDArray[np.float32]:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


CIRCLE = CellReference(
    on_a_circle([1, 2, -3, 4, -5, 90]), pd.DataFrame({"label": ["near", "many", "many", "near", "many", "far"]})
)


def test_votes_count_alike_or_by_distance() -> None:
    found = annotate_by_neighbours(on_a_circle([0]), CIRCLE, n_neighbors=5).iloc[0]
    assert (found["prediction"], found["votes"]) == ("many", {"near": 2, "many": 3})
    assert (found["share"], found["share_of_two"]) == (0.6, 0.6)
    weighted = annotate_by_neighbours(on_a_circle([0]), CIRCLE, n_neighbors=5, weighted=True).iloc[0]
    weights = {"near": 0.0, "many": 0.0}
    for degrees, label in zip((1, 2, -3, 4, -5), CIRCLE.metadata["label"], strict=False):
        weights[label] += 1 / (1 - np.cos(np.radians(degrees)))
    assert weighted["prediction"] == "near"
    assert weighted["weighted_share"] == pytest.approx(weights["near"] / sum(weights.values()), rel=1e-2)
    assert weighted["min_distance"] == pytest.approx(1 - np.cos(np.radians(1)), abs=1e-6)
    assert weighted["max_distance"] == pytest.approx(1 - np.cos(np.radians(5)), abs=1e-6)


def test_of_equal_votes_the_nearest_wins() -> None:
    found = annotate_by_neighbours(on_a_circle([0, 2.9]), CIRCLE, n_neighbors=2)
    assert found["prediction"].tolist() == ["near", "many"]
    assert found["share_of_two"].tolist() == [0.5, 0.5]


def test_one_label_alone_is_sure() -> None:
    found = annotate_by_neighbours(on_a_circle([90]), CIRCLE, n_neighbors=1).iloc[0]
    assert (found["prediction"], found["share"], found["weighted_share_of_two"]) == ("far", 1.0, 1.0)


def test_labels_can_be_chosen_or_excluded() -> None:
    query = on_a_circle([0])
    only = annotate_by_neighbours(query, CIRCLE, n_neighbors=1, only=["far"])
    without = annotate_by_neighbours(query, CIRCLE, n_neighbors=1, without=["near"])
    both = annotate_by_neighbours(query, CIRCLE, n_neighbors=1, only=["near", "far"], without=["near"])
    assert [table["prediction"].item() for table in (only, without, both)] == ["far", "many", "far"]
    with pytest.raises(ValueError, match="has the label 'unheard of'"):
        annotate_by_neighbours(query, CIRCLE, only=["unheard of"])
    with pytest.raises(ValueError, match="n_neighbors=3, and there are 1 cells"):
        annotate_by_neighbours(query, CIRCLE, n_neighbors=3, only=["far"])
