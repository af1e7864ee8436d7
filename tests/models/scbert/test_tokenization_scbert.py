"""scBERT's tokens: every gene that the model knows, with the whole part of its log2 expression."""

from __future__ import annotations

import math

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scfm_hf.errors import GeneIdError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization import CellTokenizer

GENES = ("CD3E", "MS4A1", "LYZ", "NKG7", "GNLY")
N = len(GENES)
VOCABULARY = GeneVocabulary(
    [*GENES, "<cls>", "<pad>"],
    special_tokens={"cls": "<cls>", "pad": "<pad>"},
    id_kind="symbol",
    species=("human",),
)


def tokenizer(**options: int) -> CellTokenizer:
    return CellTokenizer.from_vocabulary(VOCABULARY, scheme="scbert", max_length=N + 1, **options)


def cells(genes: list[str] | tuple[str, ...], *counts: list[float]) -> anndata.AnnData:
    made = anndata.AnnData(np.array(counts, np.float32))
    made.var_names = list(genes)
    return made


def test_a_value_is_the_whole_part_of_log2_of_the_scaled_count() -> None:
    """A cell of 10,000 counts: 3 -> log2(4), 40 -> log2(41) = 5.36, and the rest far above."""
    encoded = tokenizer()(cells(GENES, [3, 40, 1, 0, 9956]), return_columns=("expression",))
    assert encoded["values"] == [[2, 5, 1, 0, 5, 0]]
    expected = [2, math.log2(41), 1, 0, math.log2(9957), 0]
    np.testing.assert_allclose(encoded["expression"][0], expected, rtol=1e-6)


@pytest.mark.parametrize(("n_bins", "last"), [(5, 5), (7, 7), (20, 13)])
def test_the_highest_bin_is_open(n_bins: int, last: int) -> None:
    assert tokenizer(n_bins=n_bins)(cells(GENES, [0, 0, 0, 0, 8]))["values"] == [[0, 0, 0, 0, last, 0]]


@given(arrays(np.int64, (3, N), elements=st.integers(0, 300)).filter(lambda counts: counts.sum(1).min() > 0))
def test_values_follow_the_definition_within_rounding(counts: np.ndarray) -> None:
    encoded = tokenizer()(cells(GENES, *counts.tolist()))
    logs = np.log2(1 + counts / counts.sum(1, keepdims=True) * 1e4)
    found = np.array(encoded["values"])[:, :-1]
    low, high = (np.minimum(np.floor(logs + shift), 5) for shift in (-1e-6, 1e-6))
    assert ((found == low) | (found == high)).all()


def test_all_genes_of_the_vocabulary_come_in_its_order_and_a_token_behind_them() -> None:
    encoded = tokenizer()(cells(["LYZ", "CD3E", "XYZZY"], [5, 5, 90]), min_overlap=0)
    assert encoded["input_ids"] == [[0, 1, 2, 3, 4, 5]]
    assert encoded["values"] == [[5, 0, 5, 0, 0, 0]], "the total is over the genes that the model knows"


def test_fewer_genes_can_be_asked_for() -> None:
    made = cells(["LYZ", "CD3E", "NKG7"], [5, 0, 5], [1, 1, 1])
    measured = tokenizer()(made, genes="measured")
    assert measured["input_ids"] == [[0, 2, 3, 5]] * 2
    assert measured["values"] == [[0, 5, 5, 0], [5, 5, 5, 0]]
    expressed = tokenizer()(made, genes="expressed")
    assert expressed["input_ids"] == [[2, 3, 5], [0, 2, 3, 5]]
    assert expressed["values"] == [[5, 5, 0], [5, 5, 5, 0]]


@pytest.mark.parametrize("genes", ["all", "measured", "expressed"])
def test_a_cell_without_a_count_has_the_last_token_alone(genes: str) -> None:
    made = cells(GENES, [0] * N, [1, 0, 0, 0, 1])
    encoded = tokenizer()(made, genes=genes, empty_cells="keep")
    assert encoded["input_ids"][0] == [5]
    assert encoded["values"][0] == [0]
    padded = tokenizer()(made, genes=genes, empty_cells="keep", padding=True, return_tensors="np")
    assert padded["attention_mask"][0].sum() == 1
    assert {padded[name].dtype for name in padded} == {np.dtype(np.int64)}


def test_columns_of_one_gene_are_summed_or_refused() -> None:
    made = cells(["LYZ", "CD3E", "LYZ"], [1, 9_980, 19])
    made.var["gene"], made.var_names = made.var_names.astype(str), ["a", "b", "c"]
    assert tokenizer()(made, gene_column="gene")["values"] == [[5, 0, 4, 0, 0, 0]], "log2(21)"
    with pytest.raises(GeneIdError, match="several columns"):
        tokenizer()(made, gene_column="gene", duplicates="refuse")
    with pytest.raises(ValueError, match="one place"):
        tokenizer()(made, gene_column="gene", duplicates="keep")


def test_no_gene_is_left_out_in_silence() -> None:
    with pytest.raises(ValueError, match="max_length=4 is too short"):
        tokenizer()(cells(GENES, [1] * N), max_length=4)
    assert len(tokenizer()(cells(GENES, [1, 1, 0, 0, 0]), max_length=4, genes="expressed")["values"][0]) == 3


@pytest.mark.parametrize("options", [{"genes": "some"}, {"n_bins": 0}, {"n_bins": 127}])
def test_impossible_options_are_refused(options: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        tokenizer()(cells(GENES, [1] * N), **options)


def test_genes_that_are_added_get_tokens_too() -> None:
    grown = tokenizer()
    grown.add_tokens(["FOXP3"])
    encoded = grown(cells([*GENES, "FOXP3"], [1] * (N + 1)), max_length=N + 2)
    assert encoded["input_ids"] == [[0, 1, 2, 3, 4, 7, 5]]


def test_real_cells_keep_all_their_counts(human_pbmc: anndata.AnnData) -> None:
    made = human_pbmc[:8]
    genes = np.unique(made.var_names[np.asarray(made.X.sum(0)).ravel() > 0])
    vocabulary = GeneVocabulary(
        [*genes, "<cls>", "<pad>"],
        special_tokens=VOCABULARY.special_tokens,
        id_kind="symbol",
        species=("human",),
    )
    wide = CellTokenizer.from_vocabulary(vocabulary, scheme="scbert")
    logs = np.array(wide(made, gene_column="var_names", min_overlap=0.3, return_columns=("expression",))["expression"])
    np.testing.assert_allclose((2 ** logs[:, :-1] - 1).sum(1), 1e4, rtol=1e-4)
