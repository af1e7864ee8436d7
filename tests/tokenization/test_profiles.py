"""Columns of a file are picked, ordered and summed into the genes that a model knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from scfm_hf.errors import GeneIdError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization.profiles import GeneProjection, merges_names

ORDERS = st.sampled_from(["vocabulary", "file"])


@st.composite
def files(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Counts, and the vocabulary id of each column, -1 where unknown."""
    n_columns = draw(st.integers(0, 12))
    indices = draw(arrays(np.int64, n_columns, elements=st.integers(-1, 7)))
    counts = draw(arrays(np.float32, (draw(st.integers(0, 6)), n_columns), elements=st.integers(0, 5)))
    return counts, indices


@given(file=files(), order=ORDERS)
def test_columns_of_a_gene_are_summed(file: tuple[np.ndarray, np.ndarray], order: str) -> None:
    counts, indices = file
    project = GeneProjection(indices, duplicates="sum", order=order)
    got = project(csr_array(counts)).toarray()
    assert sorted(project.gene_ids) == sorted(set(indices[indices >= 0]))
    for place, gene in enumerate(project.gene_ids):
        assert (got[:, place] == counts[:, indices == gene].sum(axis=1)).all()


@given(file=files(), order=ORDERS)
def test_columns_may_stay_apart(file: tuple[np.ndarray, np.ndarray], order: str) -> None:
    counts, indices = file
    project = GeneProjection(indices, duplicates="keep", order=order)
    known = np.flatnonzero(indices >= 0)
    if order == "vocabulary":
        known = known[np.argsort(indices[known], kind="stable")]
    assert project.gene_ids.tolist() == indices[known].tolist()
    assert np.array_equal(project(csr_array(counts)).toarray(), counts[:, known])


@given(file=files())
def test_the_order_is_that_of_the_vocabulary_or_of_the_file(file: tuple[np.ndarray, np.ndarray]) -> None:
    _, indices = file
    assert (np.diff(GeneProjection(indices).gene_ids) > 0).all()
    in_file = GeneProjection(indices, order="file").gene_ids
    assert in_file.tolist() == list(dict.fromkeys(indices[indices >= 0].tolist()))


@given(file=files(), seed=st.integers(0, 99))
def test_the_order_of_the_file_does_not_matter(file: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    counts, indices = file
    order = np.random.default_rng(seed).permutation(len(indices))
    one, other = GeneProjection(indices), GeneProjection(indices[order])
    assert one.gene_ids.tolist() == other.gene_ids.tolist()
    assert np.array_equal(one(csr_array(counts)).toarray(), other(csr_array(counts[:, order])).toarray())


def test_repeated_genes_are_refused_with_their_columns() -> None:
    with pytest.raises(
        GeneIdError, match=r"1 genes stand in several columns \(first: columns \[1, 4\]\).*duplicates=\"sum\""
    ):
        GeneProjection(np.array([3, 5, -1, -1, 5]), duplicates="refuse")
    assert GeneProjection(np.array([3, 5, -1, -1]), duplicates="refuse").gene_ids.tolist() == [3, 5]


def test_words_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="duplicates='drop' is not one of 'sum', 'refuse', 'keep', 'sum_if_merged'"):
        GeneProjection(np.array([3, 5]), duplicates="drop")
    with pytest.raises(ValueError, match="gene_order='genome' is not one of 'vocabulary', 'file'"):
        GeneProjection(np.array([3, 5]), order="genome")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.float32])
def test_a_sum_does_not_overflow_a_small_type(dtype: type) -> None:
    counts = csr_array(np.array([[100, 100, 100]], dtype))
    assert GeneProjection(np.array([2, 2, 2]))(counts).toarray().tolist() == [[300]]


def test_a_block_is_not_changed() -> None:
    counts = csr_array(np.array([[1, 2, 0, 4]], np.float32))
    before = counts.copy()
    GeneProjection(np.array([1, 0, -1, 1]))(counts)
    assert np.array_equal(counts.toarray(), before.toarray())
    assert np.array_equal(counts.indices, before.indices)


def test_two_names_of_one_gene_merge_and_a_repeated_name_does_not() -> None:
    vocabulary = GeneVocabulary(
        ["<pad>", "A", "B"], special_tokens={"pad": "<pad>"}, id_kind="symbol", species=("human",)
    )
    identifiers = {"old-A": "A"}
    assert merges_names(["A", "old-A", "B"], vocabulary, identifiers)
    assert not merges_names(["A", "A", "B"], vocabulary, identifiers)
    assert not merges_names(["old-A", "B", "unknown"], vocabulary, identifiers)
