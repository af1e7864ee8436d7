"""A source folder finds weights and side files, reads them, and remembers which it read."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conversion.originals import cut_off

from scfm_hf.conversion import SourceFolder
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint two levels below the folder that holds what several share."""
    folder = tmp_path / "release" / "models" / "large"
    folder.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, folder / "best_model.pt")
    (folder / "args.json").write_text('{"embsize": 8}', encoding="utf-8")
    (tmp_path / "release" / "tokens").mkdir()
    (tmp_path / "release" / "tokens" / "tokens.pkl").write_bytes(pickle.dumps({"<pad>": 0}))
    return folder


def test_the_only_weights_file_is_found(folder: Path) -> None:
    assert SourceFolder(folder).weights("model.safetensors", "*.pt") == folder / "best_model.pt"


@pytest.mark.parametrize("given", ["folder", "file", "elsewhere"])
def test_weights_may_be_named(folder: Path, given: str) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / "other.pt")
    source = {
        "folder": lambda: SourceFolder(folder, weights="other.pt"),
        "file": lambda: SourceFolder(folder / "other.pt"),
        "elsewhere": lambda: SourceFolder(folder.parent, weights=folder / "other.pt"),
    }[given]()
    assert source.weights("*.pt") == folder / "other.pt"
    assert source.home == folder


def test_several_weights_files_are_named(folder: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / "other.pt")
    with pytest.raises(CheckpointError, match=r"several weights files: best_model\.pt, other\.pt.*weights="):
        SourceFolder(folder).weights("*.pt")


def test_a_folder_without_weights_says_what_it_holds(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights file \(\*\.ckpt\).*args\.json, best_model\.pt"):
        SourceFolder(folder).weights("*.ckpt")


def test_what_does_not_exist_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        SourceFolder(folder / "nowhere")
    with pytest.raises(CheckpointError, match=r"other\.pt does not exist"):
        SourceFolder(folder, weights="other.pt")
    with pytest.raises(CheckpointError, match=r"gene2vec: .*gene2vec\.npy"):
        SourceFolder(folder, files={"gene2vec": "gene2vec.npy"})


def test_side_files_are_found_in_the_folders_above(folder: Path) -> None:
    source = SourceFolder(folder)
    found = source.need("tokens/tokens.pkl", role="tokens", what="the token dictionary")
    assert source.dictionary(found) == {"<pad>": 0}
    assert source.find("nothing.pkl") is None


def test_a_side_file_beside_the_weights_comes_first(folder: Path) -> None:
    (folder / "tokens").mkdir()
    (folder / "tokens" / "tokens.pkl").write_bytes(pickle.dumps({"<pad>": 1}))
    source = SourceFolder(folder)
    assert source.dictionary(source.need("tokens/tokens.pkl", what="the token dictionary")) == {"<pad>": 1}


@pytest.mark.parametrize("relative_to", ["the folder", "the program", "nothing"])
def test_a_side_file_may_be_given_by_its_role(folder: Path, monkeypatch: pytest.MonkeyPatch, relative_to: str) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    given = {"the folder": "../elsewhere/mine.json", "the program": "mine.json", "nothing": elsewhere / "mine.json"}
    source = SourceFolder(folder, files={"arguments": given[relative_to]})
    found = source.need("args.json", role="arguments", what="the arguments")
    assert found.samefile(elsewhere / "mine.json")


def test_a_missing_side_file_is_named_with_where_to_get_it_and_how_to_give_it(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.json is missing.*the authors' repository.*files=\{'vocabulary'"):
        SourceFolder(folder).need("vocab.json", role="vocabulary", what="it lies in the authors' repository")


def test_every_kind_of_file_is_read_and_remembered_with_its_digest(folder: Path) -> None:
    np.save(folder / "gene2vec.npy", np.ones((2, 3)))
    (folder / "genes.csv").write_text("gene,chrom\nA,1\n", encoding="utf-8")
    (folder / "index.tsv").write_text("gene\tposition\nA\t1\n", encoding="utf-8")
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(folder / "embeddings.parquet")
    (folder / "list.txt").write_text("A\nB\n", encoding="utf-8")
    anndata.AnnData(var=pd.DataFrame(index=["A", "B"])).write_h5ad(folder / "cells.h5ad")
    source = SourceFolder(folder)
    assert source.json(folder / "args.json") == {"embsize": 8}
    assert set(source.tensors(folder / "best_model.pt")) == {"weight"}
    assert source.array(folder / "gene2vec.npy").shape == (2, 3)
    assert list(source.table(folder / "genes.csv")["gene"]) == ["A"]
    assert list(source.table(folder / "index.tsv").columns) == ["gene", "position"]
    assert list(source.table(folder / "embeddings.parquet")["a"]) == [1.0, 2.0]
    assert source.text(folder / "list.txt").split() == ["A", "B"]
    assert list(source.genes(folder / "cells.h5ad").index) == ["A", "B"]
    source.dictionary(source.need("tokens/tokens.pkl", what="the token dictionary"))
    read = {file.name: file for file in source.sources}
    inside = {path.name for path in folder.iterdir()}
    assert set(read) == inside | {"tokens.pkl"}
    for name in inside:
        content = (folder / name).read_bytes()
        assert (read[name].size, read[name].sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["args.json", "genes.parquet", "cells.h5ad"])
def test_a_truncated_side_file_is_named_and_not_remembered(folder: Path, name: str) -> None:
    path = folder / name
    if name.endswith("json"):
        path.write_text(json.dumps({"embsize": 8, "nlayers": 4}), encoding="utf-8")
    elif name.endswith("parquet"):
        pd.DataFrame({"a": np.arange(100.0)}).to_parquet(path)
    else:
        anndata.AnnData(var=pd.DataFrame(index=["A", "B"])).write_h5ad(path)
    cut_off(path, share=0.5)
    source = SourceFolder(folder)
    read = {"json": source.json, "parquet": source.table, "h5ad": source.genes}[path.suffix[1:]]
    with pytest.raises(CheckpointError, match=name):
        read(path)
    assert source.sources == ()


def test_json_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "args.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"args\.json cannot be read as JSON"):
        SourceFolder(folder).json(folder / "args.json")


def test_a_pointer_of_git_lfs_is_recognised(folder: Path) -> None:
    (folder / "vocab.json").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        SourceFolder(folder).json(folder / "vocab.json")
