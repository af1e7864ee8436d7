"""scFoundation's tokens: expressed genes in the order of the list, then the depth asked for and the depth there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scfm_hf.errors import ExpressionError
from scfm_hf.models.released import released_tokenizer

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

    from scfm_hf.tokenization import CellTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CellTokenizer:
    return released_tokenizer("scfoundation")


@pytest.fixture
def cells(human_pbmc: anndata.AnnData) -> anndata.AnnData:
    return human_pbmc[:5].copy()


def encoded(tokenizer: CellTokenizer, cells: anndata.AnnData, **options: Any) -> dict[str, list[NDArray[Any]]]:
    columns = tokenizer.encode_cells(cells, gene_column="var_names", exact_names=True, **options).columns
    return {name: [column.row(row) for row in range(len(column))] for name, column in columns.items()}


def counts_of(tokenizer: CellTokenizer, cells: anndata.AnnData, row: int) -> dict[int, float]:
    """Counts of the genes that the model knows and the cell expresses, by id, in the order of the list."""
    counts: dict[int, float] = {}
    for gene, count in zip(cells.var_names, cells.X[row].toarray().ravel(), strict=True):
        if gene in tokenizer.vocabulary and count:
            counts[tokenizer.vocabulary.token_to_id[gene]] = float(count)
    return dict(sorted(counts.items()))


def test_the_released_list_has_two_depths_and_padding_behind_its_genes(tokenizer: CellTokenizer) -> None:
    assert len(tokenizer) == 19_267
    assert list(tokenizer.vocabulary.tokens[:2]) == ["A1BG", "A1CF"]
    names = ("<target_depth>", "<source_depth>", "<pad>")
    assert tokenizer.convert_tokens_to_ids(list(names)) == [19_264, 19_265, 19_266]
    assert tokenizer.pad_token_id == 19_266


def test_values_are_log_normalised_over_the_listed_genes(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    given = encoded(tokenizer, cells, return_columns=("counts",))
    for row in range(cells.n_obs):
        counts = counts_of(tokenizer, cells, row)
        total = sum(counts.values())
        assert given["input_ids"][row].tolist() == [*counts, 19_264, 19_265]
        expected = [np.log1p(count / total * 1e4) for count in counts.values()]
        np.testing.assert_allclose(given["values"][row], [*expected, 4.0, np.log10(total)], rtol=1e-6)
        assert given["counts"][row].tolist() == [*counts.values(), 0.0, 0.0]


@pytest.mark.parametrize(
    ("target_depth", "of"),
    [
        ("t4.5", lambda total: 4.5),
        ("f1", np.log10),
        ("f2.5", lambda total: np.log10(2.5 * total)),
        ("a1", lambda total: np.log10(total) + 1),
        ("a-0.5", lambda total: np.log10(total) - 0.5),
    ],
)
def test_the_target_depth_is_fixed_or_relative_to_the_cells_own(
    tokenizer: CellTokenizer, cells: anndata.AnnData, target_depth: str, of: Any
) -> None:
    given = encoded(tokenizer, cells, target_depth=target_depth)
    for row in range(cells.n_obs):
        total = sum(counts_of(tokenizer, cells, row).values())
        np.testing.assert_allclose(given["values"][row][-2:], [of(total), np.log10(total)], rtol=1e-6)


@pytest.mark.parametrize("wrong", ["4", "x4", "t", "f0", "f-1"])
def test_another_target_depth_is_refused(tokenizer: CellTokenizer, wrong: str) -> None:
    with pytest.raises(ValueError, match="target_depth="):
        tokenizer.scheme(target_depth=wrong)


def test_normalised_values_take_their_depth_from_a_column(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    plain = encoded(tokenizer, cells)
    totals = np.array([sum(counts_of(tokenizer, cells, row).values()) for row in range(cells.n_obs)])
    cells.obs["total"] = totals
    cells.X = cells.X.multiply(1e4 / totals[:, None]).tocsr().log1p()
    given = encoded(tokenizer, cells, normalized=True, total_counts="total")
    for row in range(cells.n_obs):
        np.testing.assert_allclose(given["values"][row], plain["values"][row], rtol=1e-5)
    without = encoded(tokenizer, cells, normalized=True)
    sums = [values[:-2].sum() for values in plain["values"]]
    np.testing.assert_allclose([values[-1] for values in without["values"]], np.log10(sums), rtol=1e-5)
    with pytest.raises(ExpressionError):
        encoded(tokenizer, cells)
    with pytest.raises(ValueError, match="no column of obs"):
        encoded(tokenizer, cells, normalized=True, total_counts="depth")
    cells.obs.iloc[1, cells.obs.columns.get_loc("total")] = 0
    with pytest.raises(ValueError, match=f"no positive number in 1 cells .first: {cells.obs_names[1]}"):
        encoded(tokenizer, cells, normalized=True, total_counts="total")


def test_counts_are_refused_where_normalised_values_are_announced(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    with pytest.raises(ExpressionError):
        encoded(tokenizer, cells, normalized=True)


def test_both_depths_of_bulk_samples_are_those_of_their_log_values(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    cells.X = cells.X * 1.5
    for values in encoded(tokenizer, cells, bulk=True)["values"]:
        np.testing.assert_allclose(values[-2:], np.log10(values[:-2].sum()), rtol=1e-5)
    for values in encoded(tokenizer, cells, bulk=True, normalized=True)["values"]:
        np.testing.assert_allclose(values[-2:], values[:-2].sum(), rtol=1e-5)


def test_cells_may_go_without_depths(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    plain, given = encoded(tokenizer, cells), encoded(tokenizer, cells, depth_tokens=False)
    for row in range(cells.n_obs):
        assert given["input_ids"][row].tolist() == plain["input_ids"][row][:-2].tolist()
        assert given["values"][row].tolist() == plain["values"][row][:-2].tolist()


def test_long_cells_keep_their_highest_values_in_the_order_of_the_list(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    plain, given = encoded(tokenizer, cells), encoded(tokenizer, cells, max_length=102)
    for row in range(cells.n_obs):
        ids, values = given["input_ids"][row], given["values"][row]
        assert len(ids) == 102
        assert (np.diff(ids) > 0).all()
        assert sorted(values[:-2]) == sorted(plain["values"][row][:-2])[-100:]
        assert values[-2:].tolist() == plain["values"][row][-2:].tolist()


def test_a_cell_with_a_single_count_keeps_its_depths(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    counts = cells.X.tolil()
    counts[0] = 0
    counts[0, cells.var_names.get_loc("CD3E")] = 1
    cells.X = counts.tocsr()
    given = encoded(tokenizer, cells)
    assert given["input_ids"][0].tolist() == [tokenizer.vocabulary.token_to_id["CD3E"], 19_264, 19_265]
    assert given["values"][0][-1] == 0
