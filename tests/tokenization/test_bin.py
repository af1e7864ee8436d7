"""Bins are those of ``numpy.quantile`` and ``numpy.digitize`` on each cell's own non-zero values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from scfm_hf.tokenization.bin import bin_values
from scfm_hf.tokenization.draws import CellDraws, SharedDraws
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    import anndata

counts = arrays(np.float32, st.integers(0, 80), elements=st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, 7.0]))
logs = arrays(np.float32, st.integers(0, 80), elements=st.floats(0, 10, width=32))
wide = arrays(
    np.float32, st.integers(0, 80), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
)
cells = st.lists(counts | logs | wide, max_size=5)


def ends_one_by_one(cell: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The definition: lower and upper end of each value, and the edges."""
    lower, upper, edges = np.zeros(len(cell), int), np.zeros(len(cell), int), np.zeros(n_bins - 1)
    filled = cell != 0
    if filled.any():
        edges = np.quantile(cell[filled], np.linspace(0, 1, n_bins - 1))
        lower[filled], upper[filled] = np.digitize(cell[filled], edges, right=True), np.digitize(cell[filled], edges)
    return lower, upper, edges


@given(rows=cells, n_bins=st.integers(2, 60))
def test_ends_and_edges_are_exactly_numpys(rows: list[np.ndarray], n_bins: int) -> None:
    binned = bin_values(Ragged.from_rows(rows, np.float32), n_bins=n_bins)
    for i, row in enumerate(rows):
        lower, upper, edges = ends_one_by_one(row, n_bins)
        assert binned.lower.row(i).tolist() == lower.tolist()
        assert binned.upper.row(i).tolist() == upper.tolist()
        assert binned.edges[i].tolist() == edges.tolist()
    assert binned.bins == binned.upper


@pytest.mark.parametrize("cells", ["human_pbmc", "human_lines"])
def test_real_cells_raw_and_logged_are_binned_as_one_by_one(cells: str, request: pytest.FixtureRequest) -> None:
    matrix = csr_array(request.getfixturevalue(cells).X)
    for values in (matrix.data, np.log1p(matrix.data)):
        rows = Ragged(values, matrix.indptr)
        binned = bin_values(rows)
        for i in range(len(rows)):
            lower, upper, _ = ends_one_by_one(rows.row(i), 51)
            assert binned.lower.row(i).tolist() == lower.tolist()
            assert binned.upper.row(i).tolist() == upper.tolist()


def test_bins_do_not_depend_on_the_other_cells(human_pbmc: anndata.AnnData) -> None:
    matrix = csr_array(human_pbmc.X)
    rows = Ragged(matrix.data, matrix.indptr)
    ids = list(human_pbmc.obs_names)
    options = {"ties": "random", "draws": CellDraws(3)}
    together = bin_values(rows, cell_ids=ids, **options).bins
    for i in (0, 7, len(rows) - 1):
        assert bin_values(rows.take([i]), cell_ids=[ids[i]], **options).bins.row(0).tolist() == together.row(i).tolist()


def test_each_way_with_ties_stays_within_the_ends(human_pbmc: anndata.AnnData) -> None:
    matrix = csr_array(human_pbmc.X)
    rows = Ragged(matrix.data, matrix.indptr)
    upper, lower, middle = (bin_values(rows, ties=ties).bins.values for ties in ("upper", "lower", "middle"))
    random = bin_values(rows, ties="random", draws=CellDraws(0), cell_ids=range(len(rows))).bins.values
    assert (lower < upper).any()
    for bins in (middle, random):
        assert ((lower <= bins) & (bins <= upper)).all()
    assert lower.min() >= 1
    assert upper.max() == 50


def test_random_bins_take_one_uniform_number_a_value_cell_by_cell() -> None:
    rows = Ragged.from_rows([[1.0, 1.0, 2.0], [0.0, 5.0], [3.0]], np.float32)
    binned = bin_values(rows, ties="random", draws=SharedDraws(7), cell_ids=range(3))
    uniform = np.random.RandomState(7).rand(5)
    filled = rows.values != 0
    low, up = binned.lower.values[filled], binned.upper.values[filled]
    assert binned.bins.values[filled].tolist() == np.ceil(uniform * (low - up) + up).tolist()
    assert binned.bins.values[~filled].tolist() == [0]


def test_zeros_have_bin_zero_and_a_cell_of_zeros_no_edges() -> None:
    binned = bin_values(Ragged.from_rows([[0.0, 0.0], [], [4.0]], np.float32), n_bins=5)
    assert binned.bins.to_list() == [[0, 0], [], [4]]
    assert binned.edges.tolist() == [[0.0] * 4, [0.0] * 4, [4.0] * 4]


def test_options_that_cannot_work_are_refused() -> None:
    rows = Ragged.from_rows([[1.0]], np.float32)
    with pytest.raises(ValueError, match="draws="):
        bin_values(rows, ties="random")
    with pytest.raises(ValueError, match="'upper', 'lower', 'middle', 'random'; got 'up'"):
        bin_values(rows, ties="up")
    with pytest.raises(ValueError, match="n_bins=1"):
        bin_values(rows, n_bins=1)
