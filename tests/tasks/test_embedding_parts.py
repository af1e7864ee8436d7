"""Ranks that share the cells, and runs that were killed, give the embeddings of one process bit for bit."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from ranks import on_ranks

import scfm_hf
from scfm_hf.errors import CorpusError
from scfm_hf.tasks import embedding_parts
from scfm_hf.tasks.embedding_parts import KeptParts

if TYPE_CHECKING:
    from pathlib import Path

CALL: dict[str, Any] = {"batch_size": 4, "min_overlap": 0, "progress": False}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine parts of eight cells."""
    monkeypatch.setattr(embedding_parts, "_CELLS_A_PART", 8)


@pytest.fixture
def expected(human_pbmc: anndata.AnnData, model_folder: Path) -> anndata.AnnData:
    return scfm_hf.embed(human_pbmc, str(model_folder), **CALL)


def embed_on_a_rank(cells: anndata.AnnData, model: str, folder: Path, die_after: int | None = None) -> None:
    """Write what embed gives on this rank; the second rank is killed once it has kept some parts."""
    rank = os.environ.get("RANK", "0")
    if die_after is not None and rank == "1":
        write, written = KeptParts.write, []

        def dying(self: KeptParts, *arguments: Any) -> None:
            if len(written) == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(write(self, *arguments))

        KeptParts.write = dying  # type: ignore[method-assign]
    result = scfm_hf.embed(cells, model, parts=folder / "parts", **CALL)
    if result is not None:
        result.write_h5ad(folder / f"from{rank}.h5ad")


def check(folder: Path, expected: anndata.AnnData) -> None:
    assert [path.name for path in folder.glob("from*")] == ["from0.h5ad"]
    found = anndata.read_h5ad(folder / "from0.h5ad")
    assert found.obs_names.equals(expected.obs_names)
    np.testing.assert_array_equal(found.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    assert not (folder / "parts").exists()


def test_ranks_give_what_one_process_gives(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path, expected: anndata.AnnData, small_parts: None
) -> None:
    assert on_ranks(2, embed_on_a_rank, human_pbmc, str(model_folder), tmp_path) == [0, 0]
    check(tmp_path, expected)


def test_a_rank_that_died_leaves_its_parts_to_go_on_from(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path, expected: anndata.AnnData, small_parts: None
) -> None:
    """On as many ranks or others; nothing is taken for whole before it is."""
    codes = on_ranks(2, embed_on_a_rank, human_pbmc, str(model_folder), tmp_path, die_after=2)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("part-*.npy")}
    assert 2 <= len(kept) < 9
    assert not list(tmp_path.glob("from*"))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        write = KeptParts.write
        patch.setattr(KeptParts, "write", lambda *given: made.append(given[1]) or write(*given))
        result = scfm_hf.embed(human_pbmc, str(model_folder), parts=tmp_path / "parts", **CALL)
    assert len(made) == 9 - len(kept)
    np.testing.assert_array_equal(result.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    assert not (tmp_path / "parts").exists()


def test_parts_of_anything_else_are_refused(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeptParts, "remove", lambda self: None)
    scfm_hf.embed(human_pbmc, str(model_folder), parts=tmp_path / "parts", **CALL)
    for changes, named in (
        ({"pooling": "mean"}, "pooling"),
        ({"batch_size": 5}, "batches"),
        ({"max_length": 16}, "cells"),
    ):
        with pytest.raises(CorpusError, match=named):
            scfm_hf.embed(human_pbmc, str(model_folder), parts=tmp_path / "parts", **CALL | changes)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(CorpusError, match="no parts"):
        scfm_hf.embed(human_pbmc, str(model_folder), parts=tmp_path / "other", **CALL)


def test_states_of_genes_need_all_cells(human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="genes=True"):
        scfm_hf.embed(human_pbmc, str(model_folder), parts=tmp_path / "parts", genes=True)
