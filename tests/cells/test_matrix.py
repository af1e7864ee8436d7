"""The same values give the same blocks, however they are stored, and reading changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import sparse_dataset, write_elem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from scfm_hf.cells import CellMatrix, inspect_cells, storage
from scfm_hf.errors import ExpressionError, GeneIdError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# Whole numbers from 0 to 100 are exact in all of them but bool, which has its own test.
DTYPES = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 longdouble >f4".split()
FORMATS = "csr csc dense fortran csr_array csc_array".split()

counts = st.tuples(st.integers(1, 9), st.integers(1, 7)).flatmap(
    lambda shape: arrays.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 7, 100]))
)
some = settings(max_examples=40, deadline=None)


def stored(values: NDArray[Any], form: str, dtype: str = "float32") -> Any:
    """The values in another form; SciPy has no sparse float16 and no foreign byte order, which stay float32 there."""
    made: dict[str, Callable[..., Any]] = {
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "csr_array": sparse.csr_array,
        "csc_array": sparse.csc_array,
        "dense": np.array,
        "fortran": np.asfortranarray,
    }
    sparse_form = form not in ("dense", "fortran")
    return made[form](values.astype("float32" if sparse_form and dtype in ("float16", ">f4") else dtype))


def untidy(values: NDArray[Any]) -> sparse.csr_matrix:
    """The same matrix with unsorted indices, duplicates and explicit zeros."""
    tidy = sparse.csr_matrix(values.astype(np.float32))
    rows, columns = np.repeat(np.arange(len(values)), np.diff(tidy.indptr)), tidy.indices
    halves = np.concatenate([tidy.data - 1, np.ones_like(tidy.data)])
    order = np.argsort(np.concatenate([rows, rows]), kind="stable")
    # The order inside a row is turned, so that it is not sorted.
    order = np.concatenate([part[::-1] for part in np.split(order, np.cumsum(2 * np.diff(tidy.indptr))[:-1])])
    made = sparse.csr_matrix((halves[order], np.concatenate([columns, columns])[order], 2 * tidy.indptr), values.shape)
    assert (made.toarray() == values).all()
    return made


def annotated(values: Any, **options: Any) -> anndata.AnnData:
    cells, genes = values.shape
    return anndata.AnnData(
        values,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(cells)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(genes)]),
        **options,
    )


def read(matrix: CellMatrix, block_size: int = 4) -> NDArray[Any]:
    """All blocks, put together after a look at each."""
    seen, dense = 0, np.zeros((matrix.n_cells, matrix.n_genes))
    for block in matrix.blocks(block_size):
        assert isinstance(block.counts, sparse.csr_array)
        assert block.counts.dtype in (np.float32, np.float64, np.int64)
        rebuilt = sparse.csr_array((block.counts.data, block.counts.indices, block.counts.indptr), block.counts.shape)
        assert rebuilt.has_canonical_format
        assert rebuilt.has_sorted_indices
        assert block.counts.data.all()
        assert block.rows.start == seen
        assert block.counts.shape == (len(block.cell_ids), matrix.n_genes)
        assert block.cell_ids.tolist() == matrix.cell_ids[block.rows].tolist()
        dense[block.rows] = block.counts.toarray()
        seen = block.rows.stop
    assert seen == matrix.n_cells
    return dense


@some
@given(values=counts, form=st.sampled_from(FORMATS), dtype=st.sampled_from(DTYPES), block_size=st.integers(1, 10))
def test_every_form_and_type_gives_the_same_blocks(
    values: NDArray[Any], form: str, dtype: str, block_size: int
) -> None:
    adata = annotated(np.zeros(values.shape, np.float32))
    adata.layers["values"] = stored(values, form, dtype)
    assert (read(CellMatrix(adata, layer="values"), block_size) == values).all()


@some
@given(values=counts, form=st.sampled_from(["csr", "csc", "dense"]))
def test_booleans_count_as_ones(values: NDArray[Any], form: str) -> None:
    adata = annotated(stored(values > 0, form, "bool"))
    assert (read(CellMatrix(adata)) == (values > 0)).all()


@some
@given(values=counts, block_size=st.integers(1, 10))
def test_unsorted_and_duplicated_entries_are_sorted_and_summed_in_a_copy(values: NDArray[Any], block_size: int) -> None:
    matrix = untidy(values)
    before = matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy(), matrix.has_sorted_indices
    assert (read(CellMatrix(annotated(matrix)), block_size) == values).all()
    assert all(
        (old == new).all() for old, new in zip(before, (matrix.data, matrix.indices, matrix.indptr), strict=False)
    )
    assert matrix.has_sorted_indices == before[3]


def test_sums_of_small_integers_do_not_overflow() -> None:
    twice = sparse.csr_matrix((np.array([100, 100], np.int8), [0, 0], [0, 2]), shape=(1, 1))
    assert read(CellMatrix(annotated(twice))).tolist() == [[200]]


@some
@given(
    values=counts, form=st.sampled_from(["csr", "csc", "dense"]), place=st.sampled_from(["X", "layer", "raw"]),
    data=st.data(),
)  # fmt: skip
def test_a_view_gives_its_rows_and_columns(values: NDArray[Any], form: str, place: str, data: st.DataObject) -> None:
    whole = annotated(stored(values, form))
    whole.layers["counts"], whole.raw = stored(values, form), whole.copy()
    rows, columns = (data.draw(index(size), label="index") for size in values.shape)
    view = whole[rows, columns]
    again = data.draw(index(view.n_obs), label="index of the view")
    view = view[again]
    expected = values[rows][again] if place == "raw" else values[rows][:, columns][again]
    options: dict[str, Any] = {"X": {}, "layer": {"layer": "counts"}, "raw": {"use_raw": True}}[place]
    matrix = CellMatrix(view, **options)
    assert (read(matrix) == expected).all()
    assert view.is_view
    assert matrix.gene_names.tolist() == list(whole.var_names if place == "raw" else view.var_names)


def index(size: int) -> st.SearchStrategy[Any]:
    """Ways to choose rows or columns, at least one: a slice, a mask, positions in any order, repeated ones too."""
    positions = st.lists(st.integers(0, size - 1), min_size=1, max_size=size).map(lambda rows: np.array(rows, np.int64))
    slices = st.tuples(st.integers(0, size - 1), st.integers(1, 3)).map(lambda parts: slice(parts[0], None, parts[1]))
    masks = arrays.arrays(np.bool_, size).filter(np.any)
    return st.one_of(slices, masks, positions)


@settings(some, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=counts, form=st.sampled_from(["csr", "csc", "dense"]), dtype=st.sampled_from(["float32", "int32", "uint8"]),
    raw=st.booleans(), block_size=st.integers(1, 10), data=st.data(),
)  # fmt: skip
def test_a_backed_file_gives_the_same_blocks_as_memory(
    tmp_path: Path, values: NDArray[Any], form: str, dtype: str, raw: bool, block_size: int, data: st.DataObject
) -> None:
    whole = annotated(stored(values, form, dtype))
    if raw:
        whole.raw = whole.copy()
    whole.write_h5ad(tmp_path / "cells.h5ad")
    rows = data.draw(index(len(values)))
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    try:
        assert (read(CellMatrix(backed, use_raw=raw), block_size) == values).all()
        # A view of a backed AnnData with raw reads rows itself, and cannot read repeated or unordered ones.
        if not raw:
            assert (read(CellMatrix(backed[rows]), block_size) == values[rows]).all()
    finally:
        backed.file.close()


class TestOnDisk:
    def test_csc_too_large_for_memory_is_swept_band_by_band(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, human_pbmc: anndata.AnnData
    ) -> None:
        expected = human_pbmc.X.toarray()
        human_pbmc.X = human_pbmc.X.tocsc()
        human_pbmc.write_h5ad(tmp_path / "csc.h5ad")
        monkeypatch.setattr(storage, "_CSC_BAND", 20_000)
        monkeypatch.setattr(storage, "_PIECE", 5_000)
        backed = anndata.read_h5ad(tmp_path / "csc.h5ad", backed="r")
        assert (read(CellMatrix(backed), block_size=7) == expected).all()
        assert (read(CellMatrix(backed[5:60:2]), block_size=7) == expected[5:60:2]).all()
        backed.file.close()

    def test_csr_rows_are_read_a_block_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, human_pbmc: anndata.AnnData
    ) -> None:
        human_pbmc.write_h5ad(tmp_path / "csr.h5ad")
        backed = anndata.read_h5ad(tmp_path / "csr.h5ad", backed="r")
        matrix = CellMatrix(backed)
        sizes: list[int] = []
        original = h5py.Dataset.__getitem__

        def watched(dataset: h5py.Dataset, *index: Any, **options: Any) -> Any:
            found = original(dataset, *index, **options)
            if dataset.name == "/X/data":
                sizes.append(len(found))
            return found

        monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
        assert sum(block.counts.nnz for block in matrix.blocks(8)) == human_pbmc.X.nnz
        assert len(sizes) == 9
        assert max(sizes) == max(human_pbmc.X[start : start + 8].nnz for start in range(0, 72, 8))
        backed.file.close()

    def test_a_closed_file_is_opened_again(self, tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        backed.file.close()
        assert (read(CellMatrix(backed)) == human_pbmc.X.toarray()).all()
        backed.file.close()

    @pytest.mark.parametrize("form", ["csr", "csc"])
    def test_a_matrix_in_zarr_is_read_too(self, tmp_path: Path, form: str, human_pbmc: anndata.AnnData) -> None:
        group = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=2)
        write_elem(group, "X", human_pbmc.X.asformat(form))
        lazy = anndata.AnnData(obs=human_pbmc.obs, var=human_pbmc.var)
        lazy.X = sparse_dataset(group["X"])
        assert (read(CellMatrix(lazy)) == human_pbmc.X.toarray()).all()


def test_the_block_is_the_callers_own(human_pbmc: anndata.AnnData) -> None:
    before = human_pbmc.X.copy()
    for block in CellMatrix(human_pbmc).blocks():
        block.counts.data[:] = -1
        block.counts.indices[:] = 0
    assert (human_pbmc.X != before).nnz == 0


def test_real_cells_are_the_same_in_every_form(human_pbmc: anndata.AnnData) -> None:
    expected = human_pbmc.X.toarray()
    human_pbmc.layers.update(csc=human_pbmc.X.tocsc(), dense=expected, int16=human_pbmc.X.astype(np.int16))
    for layer in (None, "csc", "dense", "int16"):
        assert (read(CellMatrix(human_pbmc, layer=layer), 50) == expected).all()


def test_there_is_no_block_without_cells(human_pbmc: anndata.AnnData) -> None:
    assert list(CellMatrix(human_pbmc[:0]).blocks()) == []
    assert read(CellMatrix(human_pbmc[:, :0])).shape == (72, 0)


class TestNames:
    def test_genes_are_named_by_a_column_or_the_index(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.var["partly"] = pd.Categorical([None, *human_pbmc.var["ensembl_id"][1:]])
        assert CellMatrix(human_pbmc).gene_names.tolist() == list(human_pbmc.var_names)
        assert CellMatrix(human_pbmc, gene_column="ensembl_id").gene_names.tolist() == list(
            human_pbmc.var["ensembl_id"]
        )
        assert CellMatrix(human_pbmc, gene_column="partly").gene_names[:2].tolist() == ["", "ENSG00000228463"]

    def test_a_missing_column_is_named_with_those_there_are(self, human_pbmc: anndata.AnnData) -> None:
        with pytest.raises(GeneIdError, match=r"no column 'gene_id'; it has 'ensembl_id'"):
            CellMatrix(human_pbmc, gene_column="gene_id")

    def test_repeated_names_of_cells_and_genes_stay(self) -> None:
        adata = annotated(np.eye(2, dtype=np.float32))
        adata.obs_names, adata.var_names = ["a", "a"], ["B", "B"]
        matrix = CellMatrix(adata)
        assert (matrix.cell_ids.tolist(), matrix.gene_names.tolist()) == (["a", "a"], ["B", "B"])


class TestWhatIsNotThere:
    def test_a_missing_layer_is_named_with_those_there_are(self, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.layers["counts"] = human_pbmc.X
        with pytest.raises(ExpressionError, match=r"no layer 'raw'; it has 'counts'"):
            CellMatrix(human_pbmc, layer="raw")

    def test_without_raw_or_x_the_layers_are_named(self, human_pbmc: anndata.AnnData) -> None:
        with pytest.raises(ExpressionError, match="no raw"):
            CellMatrix(human_pbmc, use_raw=True)
        human_pbmc.layers["counts"], human_pbmc.X = human_pbmc.X, None
        with pytest.raises(ExpressionError, match=r"no X.*'counts'"):
            CellMatrix(human_pbmc)

    def test_a_raw_stored_as_null_is_no_raw(self, tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
        human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
        with h5py.File(tmp_path / "cells.h5ad", "a") as file:
            write_elem(file, "raw", None)
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        with pytest.raises(ExpressionError, match="no raw"):
            CellMatrix(backed, use_raw=True)
        assert inspect_cells(backed).places == {"X": "raw counts"}
        backed.file.close()

    def test_a_layer_and_raw_together_are_refused(self, human_pbmc: anndata.AnnData) -> None:
        with pytest.raises(ExpressionError, match="not both"):
            CellMatrix(human_pbmc, layer="counts", use_raw=True)

    @pytest.mark.parametrize("dtype", ["complex64", "U3", "object"])
    def test_values_that_are_no_numbers_are_refused(self, dtype: str) -> None:
        adata = annotated(np.ones((2, 2), np.float32))
        adata.layers["odd"] = np.ones((2, 2)).astype(dtype)
        with pytest.raises(ExpressionError, match="not a real number"):
            list(CellMatrix(adata, layer="odd").blocks())

    def test_masked_values_are_refused(self) -> None:
        adata = annotated(np.ma.masked_array(np.ones((2, 2), np.float32), mask=[[True, False], [False, False]]))
        with pytest.raises(ExpressionError, match="cannot be read"):
            list(CellMatrix(adata).blocks())
