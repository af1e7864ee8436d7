"""Every value is checked before anything is computed; errors say what is wrong, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from scfm_hf.cells import CellMatrix, check_expression, expression
from scfm_hf.errors import ExpressionError, GeneIdError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def annotated(values: Any) -> anndata.AnnData:
    values = np.asarray(values)
    return anndata.AnnData(
        sparse.csr_matrix(values),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(values.shape[0])]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(values.shape[1])]),
    )


def log_normalised(adata: anndata.AnnData) -> sparse.csr_matrix:
    counts = adata.X.astype(np.float64)
    scale = sparse.diags(1e4 / np.asarray(counts.sum(1)).ravel())
    return (scale @ counts).log1p().tocsr().astype(np.float32)


def message(adata: anndata.AnnData, *, expects: Any = "counts", empty_cells: Any = "raise", **where: Any) -> str:
    with pytest.raises(ExpressionError) as raised:
        check_expression(CellMatrix(adata, **where), expects=expects, empty_cells=empty_cells)
    return str(raised.value)


class TestTotals:
    @settings(deadline=None)
    @given(values=arrays.arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)))
    def test_one_pass_gives_the_sums_of_cells_and_genes(self, values: NDArray[Any]) -> None:
        report = check_expression(CellMatrix(annotated(values)), empty_cells="keep")
        assert report.totals.tolist() == values.sum(1).tolist()
        assert report.n_genes.tolist() == (values > 0).sum(1).tolist()
        assert report.gene_totals.tolist() == values.sum(0).tolist()
        assert report.largest == values.max()
        assert report.empty_cells.tolist() == np.flatnonzero(values.sum(1) == 0).tolist()
        assert report.whole_numbers

    def test_real_cells_have_their_totals_across_blocks(
        self, human_pbmc: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expression, "CELLS_AT_A_TIME", 10)
        report = check_expression(CellMatrix(human_pbmc))
        assert report.totals.tolist() == human_pbmc.X.sum(1).A1.tolist()
        assert report.gene_totals.tolist() == human_pbmc.X.sum(0).A1.tolist()
        assert report.kind == "counts"

    def test_values_are_read_once(self, human_pbmc: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
        passes = []
        blocks = CellMatrix.blocks
        monkeypatch.setattr(CellMatrix, "blocks", lambda *args: (passes.append(args), blocks(*args))[1])
        check_expression(CellMatrix(human_pbmc))
        assert len(passes) == 1

    def test_float32_values_are_summed_in_float64(self) -> None:
        report = check_expression(CellMatrix(annotated(np.array([[2**24, 1, 1]], np.float32))))
        assert report.totals.tolist() == [2**24 + 2]


class TestImpossibleValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("expects", ["counts", "log", "any"])
    def test_values_that_are_not_finite_are_refused(self, value: float, expects: str) -> None:
        values = np.full((3, 4), 1.5)
        values[2, 1] = value
        found = message(annotated(values), expects=expects)
        assert f"1 values in 1 of 3 cells of X (first: {value:g} in cell cell2 (row 2), gene gene1)" in found
        assert "NaN or infinite" in found

    @pytest.mark.parametrize("expects", ["counts", "log", "any"])
    def test_negative_values_are_refused(self, expects: str) -> None:
        found = message(annotated([[1, -2, 0], [-1, 0, -3]]), expects=expects)
        assert "3 values in 2 of 2 cells of X (first: -2 in cell cell0 (row 0), gene gene1; -1 in cell cell1" in found
        assert "No other place" in found

    def test_one_wrong_value_in_the_last_cell_is_found(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X.data[-1] = -1
        gene = human_pbmc.var_names[human_pbmc.X.indices[-1]]
        assert f"in cell {human_pbmc.obs_names[-1]} (row 71), gene {gene}" in message(human_pbmc)

    @settings(deadline=None, max_examples=50)
    @given(data=st.data(), block_size=st.integers(1, 8))
    def test_all_offenders_are_counted_whatever_the_blocks(self, data: st.DataObject, block_size: int) -> None:
        values = data.draw(arrays.arrays(np.float32, (7, 5), elements=st.sampled_from([0, 1, 0.5, -1])))
        negative = values < 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(expression, "CELLS_AT_A_TIME", block_size)
            if not negative.any():
                check_expression(CellMatrix(annotated(values)), expects="any", empty_cells="keep")
                return
            found = message(annotated(values), expects="any")
        row, column = np.argwhere(negative)[0]
        cells = negative.any(1).sum()
        assert f"{negative.sum()} values in {cells} of 7 cells of X (first: -1 in cell cell{row} (row {row})" in found
        assert f"gene gene{column}" in found

    def test_a_backed_file_is_checked_as_well(self, tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X.data[7] = np.nan
        human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        assert "NaN or infinite" in message(backed)
        backed.file.close()


class TestCountsWanted:
    def test_log_normalised_values_are_refused_and_the_places_of_counts_named(
        self, human_pbmc: anndata.AnnData
    ) -> None:
        human_pbmc.layers["spliced"] = human_pbmc.X.copy()
        human_pbmc.raw = human_pbmc.copy()
        human_pbmc.layers["scaled"] = human_pbmc.X.toarray() - 1
        human_pbmc.X = log_normalised(human_pbmc)
        found = message(human_pbmc)
        assert f"{human_pbmc.X.nnz:,} values in 72 of 72 cells of X" in found
        assert "they look log-normalised" in found
        assert "pass layer='spliced' or use_raw=True." in found

    def test_counts_in_x_are_named_when_a_layer_is_wrong(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.layers["log"] = log_normalised(human_pbmc)
        found = message(human_pbmc, layer="log")
        assert "of layers['log']" in found
        assert "pass layer=None (X)." in found

    def test_without_counts_anywhere_it_says_so(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X = log_normalised(human_pbmc)
        assert "No other place of this AnnData (X, layers, raw) holds raw counts." in message(human_pbmc)

    def test_rounding_noise_is_recognised(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X = human_pbmc.X * 1.00001
        found = message(human_pbmc)
        assert "of one" in found
        assert "numpy.rint" in found

    @pytest.mark.parametrize("values", [[[1, 0]], [[1]], [[0, 1], [1, 1]]])
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
    def test_few_cells_of_ones_are_counts(self, values: Any, dtype: str) -> None:
        assert check_expression(CellMatrix(annotated(np.array(values, dtype)))).whole_numbers


class TestLogWanted:
    def test_log_values_pass(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X = log_normalised(human_pbmc)
        assert check_expression(CellMatrix(human_pbmc), expects="log").kind == "log"

    def test_counts_are_refused_and_the_place_of_logs_named(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.layers["log"] = log_normalised(human_pbmc)
        found = message(human_pbmc, expects="log")
        assert "all values of X are whole numbers" in found
        assert "pass layer='log'" in found
        assert "scanpy.pp.log1p" in found

    def test_normalised_values_without_a_logarithm_are_refused(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X = log_normalised(human_pbmc).expm1()
        assert "too large for a logarithm" in message(human_pbmc, expects="log")

    def test_a_matrix_of_zeros_is_no_counts(self) -> None:
        report = check_expression(CellMatrix(annotated([[0, 0]])), expects="log", empty_cells="keep")
        assert report.kind == "nothing"


class TestEmptyCells:
    def test_they_are_refused_with_their_names(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.X = sparse.csr_matrix(human_pbmc.X.multiply(np.arange(72)[:, None] % 10 != 3))
        found = message(human_pbmc)
        assert f"7 of 72 cells have no count at all in X (first: {human_pbmc.obs_names[3]} (row 3)" in found
        assert 'empty_cells="keep"' in found

    def test_explicit_zeros_are_no_counts(self) -> None:
        adata = annotated([[1, 2]])
        adata.X.data[:] = 0
        assert "1 of 1 cells" in message(adata)

    def test_they_are_kept_and_reported_on_request(self) -> None:
        report = check_expression(CellMatrix(annotated([[1], [0], [2], [0]])), empty_cells="keep")
        assert report.empty_cells.tolist() == [1, 3]

    def test_genes_without_a_count_are_fine(self) -> None:
        assert check_expression(CellMatrix(annotated([[1, 0]]))).gene_totals.tolist() == [1, 0]

    def test_a_transposed_matrix_is_recognised_by_them(self, human_pbmc: anndata.AnnData) -> None:
        with pytest.raises(GeneIdError, match=r"transposed.*AL627309.1.*adata\.T"):
            check_expression(CellMatrix(human_pbmc.T))

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
    def test_nothing_at_all_is_refused(self, shape: tuple[int, int]) -> None:
        found = message(annotated(np.zeros(shape, np.float32)), empty_cells="keep")
        assert f"X has {shape[0]} cells and {shape[1]} genes" in found


def test_nothing_of_the_anndata_changes(human_pbmc: anndata.AnnData) -> None:
    shuffled = human_pbmc.X.copy()
    for start, stop in zip(shuffled.indptr, shuffled.indptr[1:], strict=False):
        shuffled.indices[start:stop] = shuffled.indices[start:stop][::-1]
        shuffled.data[start:stop] = shuffled.data[start:stop][::-1]
    human_pbmc.X = sparse.csr_matrix((shuffled.data, shuffled.indices, shuffled.indptr), shape=shuffled.shape)
    human_pbmc.layers["csc"] = human_pbmc.X.tocsc()
    before = human_pbmc.copy()
    for layer in (None, "csc"):
        check_expression(CellMatrix(human_pbmc, layer=layer))
    for old, new in ((before.X, human_pbmc.X), (before.layers["csc"], human_pbmc.layers["csc"])):
        assert all((getattr(old, part) == getattr(new, part)).all() for part in ("data", "indices", "indptr"))
    assert human_pbmc.obs.equals(before.obs)
    assert human_pbmc.var.equals(before.var)
    assert list(human_pbmc.layers) == ["csc"]
