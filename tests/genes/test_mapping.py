"""Columns of one token are reported, and summed only by whoever asks for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scfm_hf.genes import GeneMapper, GeneMapping, GeneVocabulary, MappingReport

GENES = ["A", "B", "C", "D"]
MAPPER = GeneMapper(GeneVocabulary(["<pad>", *GENES], special_tokens={"pad": "<pad>"}, id_kind="other"))
columns = st.lists(st.sampled_from([*GENES, "unknown"]), max_size=12)


@given(names=columns)
def test_duplicates_are_all_columns_of_a_token_that_has_several(names: list[str]) -> None:
    mapping = MAPPER.map(names)
    expected = {
        gene: tuple(i for i, name in enumerate(names) if name == gene) for gene in GENES if names.count(gene) > 1
    }
    assert mapping.report.duplicates == expected
    assert sorted(mapping.duplicated) == sorted(expected.values())


@given(names=columns, seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["f4", "f8", "i8", "i4", "u2", "u1"]))
def test_columns_take_the_order_of_the_vocabulary_and_are_summed(names: list[str], seed: int, dtype: str) -> None:
    mapping = MAPPER.map(names)
    dense = np.random.default_rng(seed).integers(0, 256, (5, len(names))) * (np.arange(len(names)) % 3 > 0)
    counts = sparse.csr_array(dense.astype(dtype))
    expected = np.zeros((5, 5), dtype=np.int64)
    for column, token in enumerate(mapping.indices):
        if token >= 0:
            expected[:, token] += dense[:, column]
    mapped = mapping.to_vocabulary(counts)
    assert mapped.toarray().tolist() == expected.tolist()
    assert mapped.has_canonical_format
    assert mapping.report.duplicates or mapped.dtype == counts.dtype
    product = counts.astype(np.int64) @ mapping.summing_matrix()
    assert product.toarray().tolist() == expected.tolist()


def test_the_summing_matrix_has_a_one_for_every_known_column() -> None:
    mapping = MAPPER.map(["B", "unknown", "A", "B"])
    matrix = mapping.summing_matrix()
    assert matrix.shape == (4, 5)
    assert matrix.toarray().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]


def test_the_matrix_that_is_given_stays_as_it_was() -> None:
    counts = sparse.csr_array(np.array([[1.0, 2.0, 0.0]], dtype=np.float32))
    MAPPER.map(["D", "A", "D"]).to_vocabulary(counts)
    assert counts.toarray().tolist() == [[1.0, 2.0, 0.0]]


def test_a_matrix_of_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match="The matrix has 3 columns, the mapping is for 1"):
        MAPPER.map(["A"]).to_vocabulary(sparse.csr_array((2, 3)))


def report() -> MappingReport:
    return MappingReport(
        n_genes=1234,
        n_matched=1000,
        share_of_counts=0.9,
        id_kind="symbol",
        species="human",
        ways={"exact": 990, "alias": 10},
        unmatched=("a", "b", "c", "d", "e", "f", "g"),
        ambiguous={"1-MAR": ("MARCHF1", "MTARC1")},
        renamed={"SEPT7": "SEPTIN7"},
        duplicates={"SEPTIN7": (3, 8)},
    )


def test_the_report_reads_as_a_paragraph() -> None:
    assert str(report()) == (
        "1,000 of 1,234 genes are in the vocabulary: 81.0% of the genes and 90.0% of the counts. "
        "The names are symbols of human. "
        "Matched: 990 as written, 10 by a previous symbol or alias. "
        "Renamed: SEPT7 to SEPTIN7. "
        "Several columns for one token: SEPTIN7 (columns 3, 8). "
        "Ambiguous, left out: 1-MAR (MARCHF1 or MTARC1). "
        "Not in the vocabulary: a, b, c, d, e and 2 more."
    )


def test_an_empty_report_reads_as_a_paragraph_too() -> None:
    assert str(MappingReport(n_genes=0, n_matched=0)) == (
        "0 of 0 genes are in the vocabulary: 0.0% of the genes. The names are neither Ensembl ids nor symbols."
    )


def test_the_report_is_plain_json() -> None:
    content = report().to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["share_of_genes"] == pytest.approx(1000 / 1234)


def test_known_tells_which_columns_have_a_token() -> None:
    mapping = GeneMapping(indices=np.array([2, -1, 0]), n_vocabulary=3, report=MappingReport(n_genes=3, n_matched=2))
    assert mapping.known.tolist() == [True, False, True]
