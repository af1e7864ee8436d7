"""``datasets.load_dataset`` reads files of cells, map-style and streaming, with typed columns."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import datasets
import h5py
import numpy as np
import pytest
from scipy.io import mmwrite

from scfm_hf.data.anndata_builder import gene_names
from scfm_hf.data.corpus import load_corpus
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

# No real antibody has an id like a gene; it must not be one because of its type.
ANTIBODY = "ENSG00000999999"


@pytest.fixture
def h5ad(tmp_path: Path, human_pbmc: anndata.AnnData) -> Path:
    human_pbmc.obs["n_counts"] = np.asarray(human_pbmc.X.sum(1)).ravel()
    human_pbmc.obs["large"] = human_pbmc.obs["n_counts"] > 2000
    human_pbmc.obs["note"] = [f"note {row}" for row in range(72)]
    human_pbmc.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    return tmp_path / "cells.h5ad"


def load(tmp_path: Path, **options: Any) -> Any:
    return datasets.load_dataset("anndata", split="train", cache_dir=str(tmp_path / "cache"), **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_line_is_a_cell_with_its_counts_and_annotation(
    h5ad: Path, tmp_path: Path, human_pbmc: anndata.AnnData, streaming: bool
) -> None:
    cells = load(tmp_path, data_files=str(h5ad), streaming=streaming)
    types = {name: str(getattr(feature, "dtype", "list")) for name, feature in cells.features.items()}
    assert types | {"cell_type": "int64", "n_counts": "float32", "large": "bool", "note": "string"} == types
    assert isinstance(cells.features["cell_type"], datasets.ClassLabel)
    assert gene_names(cells) == human_pbmc.var_names.tolist()
    for row, cell in enumerate(cells):
        dense = np.zeros(human_pbmc.n_vars)
        dense[cell["gene_ids"]] = cell["counts"]
        assert np.array_equal(dense, human_pbmc.X[[row]].toarray()[0])
        assert cell["cell_id"] == human_pbmc.obs_names[row]
        assert cells.features["cell_type"].int2str(cell["cell_type"]) == human_pbmc.obs["cell_type"].iloc[row]
        assert cell["note"] == f"note {row}"
    assert row == 71


def test_one_file_is_cut_into_shards_for_workers(h5ad: Path, tmp_path: Path) -> None:
    stream = load(tmp_path, data_files=str(h5ad), streaming=True, shard_size=20, block_size=7)
    assert stream.num_shards == 4
    cells = iter(stream)
    before = [next(cells)["cell_id"] for _ in range(30)]
    other = load(tmp_path, data_files=str(h5ad), streaming=True, shard_size=20, block_size=7)
    other.load_state_dict(stream.state_dict())
    whole = load(tmp_path, data_files=str(h5ad), num_proc=2, shard_size=20)
    assert before + [cell["cell_id"] for cell in other] == whole["cell_id"]


def write_tenx(folder: Path, cells: anndata.AnnData) -> None:
    """The files of Cell Ranger: HDF5, and a folder with a matrix.mtx; the last feature is an antibody."""
    ids, symbols = [*cells.var["ensembl_id"].astype(str).iloc[:-1], ANTIBODY], cells.var_names.tolist()
    types = ["Gene Expression"] * (cells.n_vars - 1) + ["Antibody Capture"]
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["data"], matrix["indices"] = cells.X.data.astype(np.int32), cells.X.indices.astype(np.int64)
        matrix["indptr"], matrix["shape"] = cells.X.indptr.astype(np.int64), np.array(cells.shape[::-1], np.int32)
        matrix["barcodes"] = np.array(cells.obs_names.tolist(), "S")
        for name, texts in (("id", ids), ("name", symbols), ("feature_type", types)):
            matrix[f"features/{name}"] = np.array(texts, "S")
    market = folder / "filtered_feature_bc_matrix"
    market.mkdir()
    with gzip.open(market / "matrix.mtx.gz", "wb") as stream:
        mmwrite(stream, cells.X.T.tocoo().astype(np.int32))
    lines = "\n".join("\t".join(line) for line in zip(ids, symbols, types, strict=True))
    (market / "features.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    (market / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(cells.obs_names).encode()))


def test_the_files_of_cell_ranger_are_cells_too(tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
    write_tenx(tmp_path, human_pbmc)
    stores = [str(tmp_path / "filtered_feature_bc_matrix.h5"), str(tmp_path / "filtered_feature_bc_matrix")]
    cells = load(tmp_path, stores=stores, streaming=True)
    counts = [cell["counts"] for cell in cells]
    assert counts[:72] == counts[72:]
    assert [len(count) for count in counts[:72]] == np.diff(human_pbmc.X.indptr).tolist()

    stream = load_corpus(tmp_path, cell_ids=True)
    assert [place.rpartition("/")[2] for place in stream.report.files["file"]] == [
        "filtered_feature_bc_matrix",
        "filtered_feature_bc_matrix.h5",
    ]
    assert ANTIBODY not in stream.vocabulary
    seen: dict[str, list[Any]] = {}
    for cell in stream:
        seen.setdefault(cell["cell_id"], []).append(cell["counts"].tolist())
    assert all(len(pair) == 2 and pair[0] == pair[1] for pair in seen.values())


def test_remote_files_are_read_through_fsspec(h5ad: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/cells.h5ad", h5ad.read_bytes())
    try:
        cells = load(tmp_path, stores=["memory://bucket/*.h5ad"], streaming=True)
        local = load(tmp_path, data_files=str(h5ad), streaming=True)
        assert [cell["counts"] for cell in cells] == [cell["counts"] for cell in local]
        assert len(list(load_corpus("memory://bucket", columns=["note"]))) == 72
    finally:
        memory.rm("/bucket", recursive=True)


def test_files_with_other_genes_are_refused_and_pointed_to_load_corpus(
    h5ad: Path, tmp_path: Path, human_lines: anndata.AnnData
) -> None:
    human_lines.write_h5ad(tmp_path / "lines.h5ad")
    with pytest.raises(CorpusError, match=r"lines\.h5ad has other genes.*load_corpus"):
        load(tmp_path, data_files=[str(h5ad), str(tmp_path / "lines.h5ad")], streaming=True)


def test_a_matrix_by_columns_is_refused_with_the_way_out(tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
    human_pbmc.X = human_pbmc.X.tocsc()
    human_pbmc.write_h5ad(tmp_path / "columns.h5ad")
    with pytest.raises(CorpusError, match=r"columns\.h5ad.*by columns.*tocsr"):
        load(tmp_path, data_files=str(tmp_path / "columns.h5ad"), streaming=True)


def test_columns_and_layers_can_be_chosen(h5ad: Path, tmp_path: Path) -> None:
    cells = load(tmp_path, data_files=str(h5ad), streaming=True, columns=["note"])
    assert list(cells.features) == ["gene_ids", "counts", "cell_id", "note"]
    with pytest.raises(CorpusError, match=r"no layers/missing"):
        load(tmp_path, data_files=str(h5ad), streaming=True, layer="missing")


@pytest.mark.hub
@pytest.mark.usefixtures("hub")
def test_a_data_set_of_h5ad_files_on_the_hub_needs_no_download(h5ad: Path, tmp_path: Path, repo_id: str) -> None:
    from huggingface_hub import create_repo, upload_file

    create_repo(repo_id, repo_type="dataset")
    upload_file(path_or_fileobj=h5ad, path_in_repo="cells.h5ad", repo_id=repo_id, repo_type="dataset")
    local = load(tmp_path, data_files=str(h5ad), streaming=True)
    by_name = datasets.load_dataset(repo_id, split="train", streaming=True)
    assert [cell["cell_id"] for cell in by_name] == [cell["cell_id"] for cell in local]
    by_path = load(tmp_path, stores=[f"hf://datasets/{repo_id}/cells.h5ad"], streaming=True)
    assert [cell["counts"] for cell in by_path] == [cell["counts"] for cell in local]
    by_file = load(tmp_path, data_files=f"hf://datasets/{repo_id}/*.h5ad", streaming=True)
    assert [cell["cell_id"] for cell in by_file] == [cell["cell_id"] for cell in local]
    stream = load_corpus(f"hf://datasets/{repo_id}", cell_ids=True)
    assert sorted(cell["cell_id"] for cell in stream) == sorted(cell["cell_id"] for cell in local)
