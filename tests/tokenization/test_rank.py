"""Genes are ranked exactly as by a plain stable sort of scaled expression, in any order and type of the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from scfm_hf.errors import ExpressionError
from scfm_hf.tokenization.rank import RankedGenes, rank_genes

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

# Few distinct values and medians, so that most genes tie.
tied_counts = arrays(np.int16, st.tuples(st.integers(1, 6), st.just(30)), elements=st.sampled_from([0, 0, 1, 2, 4]))
medians = arrays(np.float64, 30, elements=st.sampled_from([0.5, 1.0, 2.0, 3.0, np.nan]))


def ranked_one_by_one(counts: np.ndarray, statistics: np.ndarray, max_genes: int | None) -> list[tuple[list, list]]:
    """The definition, a cell at a time; columns are the vocabulary."""
    cells = []
    for cell in counts.astype(np.float64):
        known = np.flatnonzero((cell > 0) & np.isfinite(statistics))
        scores = cell[known] * (1 / max(cell.sum(), 1)) * 10_000 * (1 / statistics[known])
        order = np.argsort(-scores, kind="stable")[:max_genes]
        cells.append((known[order].tolist(), scores[order].tolist()))
    return cells


def as_lists(ranked: RankedGenes) -> list[tuple[list, list]]:
    return list(zip(ranked.gene_ids.to_list(), ranked.scores.to_list(), strict=True))


@given(counts=tied_counts, statistics=medians, max_genes=st.none() | st.integers(1, 30))
def test_ranks_are_those_of_a_stable_sort_and_scores_bit_equal(
    counts: np.ndarray, statistics: np.ndarray, max_genes: int | None
) -> None:
    ranked = rank_genes(csr_array(counts), counts.sum(axis=1), statistics, max_genes=max_genes)
    assert as_lists(ranked) == ranked_one_by_one(counts, statistics, max_genes)


@given(counts=tied_counts, statistics=medians, max_genes=st.integers(1, 30), data=st.data())
def test_the_order_within_a_row_does_not_matter(
    counts: np.ndarray, statistics: np.ndarray, max_genes: int, data: st.DataObject
) -> None:
    matrix = csr_array(counts)
    shuffled = matrix.copy()
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        order = start + np.array(data.draw(st.permutations(range(stop - start))), dtype=int)
        shuffled.indices[start:stop], shuffled.data[start:stop] = matrix.indices[order], matrix.data[order]
    totals = counts.sum(axis=1)
    got, expected = (rank_genes(m, totals, statistics, max_genes=max_genes) for m in (shuffled, matrix))
    assert as_lists(got) == as_lists(expected)


def test_scores_that_differ_in_the_last_bit_alone_are_told_apart() -> None:
    statistics = np.ones(3000)
    statistics[::2] = np.nextafter(1.0, 0.0)
    counts = np.ones((2, 3000))
    for max_genes in (None, 1500, 700, 2000):
        ranked = rank_genes(csr_array(counts), counts.sum(axis=1), statistics, max_genes=max_genes)
        assert as_lists(ranked) == ranked_one_by_one(counts, statistics, max_genes)


@pytest.mark.parametrize("cells", ["human_pbmc", "human_lines"])
@pytest.mark.parametrize("max_genes", [None, 2048, 60])
def test_real_cells_are_ranked_as_one_by_one(cells: str, max_genes: int | None, request: pytest.FixtureRequest) -> None:
    counts = csr_array(request.getfixturevalue(cells).X)
    statistics = np.random.default_rng(0).lognormal(size=counts.shape[1])
    statistics[::7] = np.nan
    expected = ranked_one_by_one(counts.toarray(), statistics, max_genes)
    totals = counts.sum(axis=1, dtype=np.float64)
    for dtype in (np.float32, np.float64, np.int32, np.uint16):
        assert as_lists(rank_genes(counts.astype(dtype), totals, statistics, max_genes=max_genes)) == expected


def test_columns_of_a_file_are_named_by_their_vocabulary_ids(human_pbmc: anndata.AnnData) -> None:
    counts = csr_array(human_pbmc.X)
    statistics = np.random.default_rng(1).lognormal(size=counts.shape[1])
    totals = counts.sum(axis=1, dtype=np.float64)
    expected = rank_genes(counts, totals, statistics)
    shuffled = np.random.default_rng(2).permutation(counts.shape[1])
    got = rank_genes(csr_array(counts[:, shuffled]), totals, statistics, gene_ids=shuffled)
    assert as_lists(got) == as_lists(expected)
    ids = np.where(shuffled % 3 == 0, -1, shuffled)
    without = rank_genes(csr_array(counts[:, shuffled]), totals, statistics, gene_ids=ids)
    assert all((without.gene_ids.row(i) % 3 > 0).all() for i in range(len(without)))


def test_unstable_ties_are_those_of_numpys_default_sort(human_pbmc: anndata.AnnData) -> None:
    counts = csr_array(human_pbmc.X)[:8]
    statistics = np.ones(counts.shape[1])
    totals = counts.sum(axis=1, dtype=np.float64)
    got = rank_genes(counts, totals, statistics, max_genes=100, ties="unstable")
    stable = rank_genes(counts, totals, statistics, max_genes=100)
    assert got.scores == stable.scores
    for i in range(len(got)):
        row = counts[[i]]
        scores = row.data.astype(float) * (1 / totals[i]) * 10_000
        assert got.gene_ids.row(i).tolist() == row.indices[np.argsort(-scores)][:100].tolist()


def test_empty_cells_and_cells_of_unknown_genes_have_no_rank() -> None:
    counts = csr_array(np.array([[0, 0, 0], [0, 0, 5], [1, 2, 0], [0, 0, 0]]))
    ranked = rank_genes(counts, counts.sum(axis=1), np.array([1.0, 1.0, np.nan]))
    assert ranked.gene_ids.to_list() == [[], [], [1, 0], []]


def test_no_cell_gives_no_rank() -> None:
    ranked = rank_genes(csr_array((0, 4), dtype=np.float32), np.empty(0), np.ones(4))
    assert len(ranked) == 0
    assert ranked.gene_ids.values.dtype == np.int64


def test_explicit_zeros_are_not_ranked() -> None:
    counts = csr_array((np.array([0.0, 3.0, -0.0]), np.array([0, 1, 2]), np.array([0, 3])), shape=(1, 3))
    assert rank_genes(counts, [3], np.ones(3)).gene_ids.to_list() == [[1]]


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_values_that_are_no_counts_are_refused_with_their_row(wrong: float) -> None:
    with pytest.raises(ExpressionError, match="first: row 1"):
        rank_genes(csr_array(np.array([[1.0, 2.0], [3.0, wrong]])), [3, 4], np.ones(2))


def test_totals_that_cannot_be_are_refused_with_their_rows() -> None:
    with pytest.raises(ExpressionError, match=r"1 cells .*first: rows \[1\]"):
        rank_genes(csr_array(np.eye(2)), [1, 0], np.ones(2))
    with pytest.raises(ValueError, match="at least 1"):
        rank_genes(csr_array(np.eye(2)), [1, 1], np.ones(2), max_genes=0)


def test_released_medians_give_the_plain_loop_on_deep_cells(shared_dir: Path, human_lines: anndata.AnnData) -> None:
    table = pd.read_csv(
        shared_dir / "vocabularies" / "geneformer_v1" / "vocabulary.tsv.gz",
        sep="\t",
        quoting=3,
        keep_default_na=False,
        na_values={"median": [""]},
        float_precision="round_trip",
    )
    ids = table.set_index("token")["token_id"].reindex(human_lines.var_names, fill_value=-1).to_numpy()
    counts = csr_array(human_lines.X)
    statistics = table["median"].to_numpy()
    ranked = rank_genes(counts, counts.sum(axis=1, dtype=np.float64), statistics, gene_ids=ids, max_genes=2048)
    for i, cell in enumerate(counts.toarray().astype(np.float64)):
        known = np.flatnonzero((cell > 0) & (ids >= 0))
        scores = cell[known] * (1 / cell.sum()) * 10_000 * (1 / statistics[ids[known]])
        order = np.lexsort((known, -scores))[:2048]
        assert ranked.gene_ids.row(i).tolist() == ids[known[order]].tolist()
        assert ranked.scores.row(i).tolist() == scores[order].tolist()


def test_an_order_of_ties_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="ties='sorted' is not one of 'stable', 'unstable'"):
        rank_genes(csr_array(np.eye(2)), np.ones(2), np.ones(2), ties="sorted")
