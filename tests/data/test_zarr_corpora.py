"""Stores of zarr are corpora: CSR in chunks, and the sharded collections that annbatch writes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from scfm_hf.data.corpus import load_corpus
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, Any] = {"block_size": 4, "window_size": 24, "batch_size": 5, "columns": ["cell"]}


def write_collection(path: Path, cells: anndata.AnnData) -> None:
    """As annbatch 0.3 does: parts in one group, X as sharded CSR with the smallest columns, compressed by lz4."""
    root = zarr.create_group(path, zarr_format=3, attributes={"encoding-type": "annbatch-preshuffled"})
    parts = np.array_split(np.random.default_rng(0).permutation(cells.n_obs), 11)
    for number, rows in enumerate(parts):
        part = cells[np.sort(rows)].copy()
        part.obs["src_path"] = "cells.h5ad"
        counts, part.X = part.X, None
        with warnings.catch_warnings():  # of formats to come
            warnings.simplefilter("ignore")
            anndata.io.write_elem(root, f"dataset_{number}", part)
        group = root[f"dataset_{number}"].create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(counts.shape)})
        compressor = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")
        flat = {"data": counts.data, "indices": counts.indices.astype(np.uint16), "indptr": counts.indptr}
        for name, values in flat.items():
            group.create_array(name, data=values, chunks=(500,), shards=(2000,), compressors=compressor)
    zarr.consolidate_metadata(root.store)


def counts_by_cell(stream: Any) -> dict[int, tuple[bytes, bytes]]:
    return {cell["cell"]: (cell["gene_ids"].tobytes(), cell["counts"].tobytes()) for cell in stream}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, corpus_cells: anndata.AnnData) -> dict[int, tuple[bytes, bytes]]:
    """Every cell as it comes from one .h5ad file."""
    path = tmp_path_factory.mktemp("plain") / "cells.h5ad"
    corpus_cells.write_h5ad(path)
    return counts_by_cell(load_corpus(path, **SMALL))


@pytest.mark.parametrize("name", ["collection.zarr", "collection"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_collection_of_annbatch_is_a_corpus_of_its_parts(
    tmp_path: Path, corpus_cells: anndata.AnnData, expected: dict[int, tuple[bytes, bytes]], name: str
) -> None:
    write_collection(tmp_path / name, corpus_cells)
    stream = load_corpus(tmp_path / name, **SMALL)
    names = [place.rpartition("/")[2] for place in stream.report.files["file"]]
    assert names == [f"dataset_{number}" for number in range(11)]
    assert counts_by_cell(stream) == expected
    state, whole = stream.state_dict(taken=30), [cell["cell"] for cell in stream]
    # Found as well where it stands among other files, and each part by its own path.
    again = load_corpus(tmp_path, **SMALL)
    again.load_state_dict(state)
    assert [cell["cell"] for cell in again] == whole[30:]
    assert len(load_corpus(tmp_path / name / "dataset_3", **SMALL)) == 7


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_with_rows_in_chunks_is_a_corpus(
    tmp_path: Path, corpus_cells: anndata.AnnData, expected: dict[int, tuple[bytes, bytes]], zarr_format: int
) -> None:
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=zarr_format):
        warnings.simplefilter("ignore")
        corpus_cells.write_zarr(tmp_path / "cells.zarr")
    assert counts_by_cell(load_corpus(tmp_path, **SMALL)) == expected


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize(
    ("array", "n_bytes", "message"),
    [
        ("data", 100, "cannot be read"),
        ("data", None, "chunks of its data are missing"),
        ("indices", None, "of its indices"),
    ],
)
def test_a_part_with_a_cut_or_vanished_shard_is_named(
    tmp_path: Path, corpus_cells: anndata.AnnData, array: str, n_bytes: int | None, message: str
) -> None:
    write_collection(tmp_path / "collection.zarr", corpus_cells)
    shard = tmp_path / "collection.zarr" / "dataset_2" / "X" / array / "c" / "1"
    content = shard.read_bytes()
    shard.unlink()
    if n_bytes:
        shard.write_bytes(content[:n_bytes])
    with pytest.raises(CorpusError, match=rf"dataset_2.*{message}"):
        list(load_corpus(tmp_path, **SMALL))
    stream = load_corpus(tmp_path, on_error="skip", **SMALL)
    assert [place.rpartition("/")[2] for place in stream.report.skipped] == ["dataset_2"]
