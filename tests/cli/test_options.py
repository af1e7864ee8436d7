"""``--option name=value`` reaches the model's tokenizer from every command that encodes cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
import typer
from datasets import load_from_disk

import scfm_hf
from scfm_hf.cli.options import tokenizer_options

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Scfm


def test_values_are_what_json_takes_them_for_or_text() -> None:
    given = ["species=mouse", "log1p=true", "target_sum=1e4", 'coordinates=["x", "y"]', "slide_key=a=b"]
    assert tokenizer_options(given, cell_sets="all", other=None) == {
        "species": "mouse",
        "log1p": True,
        "target_sum": 1e4,
        "coordinates": ["x", "y"],
        "slide_key": "a=b",
        "cell_sets": "all",
    }


@pytest.mark.parametrize("given", [["species"], ["=mouse"], ["a=1", "a=2"], ["cell_sets=all"]])
def test_what_is_no_option_is_refused(given: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        tokenizer_options(given, cell_sets="slide")


def test_embed_tokenize_and_annotate_pass_options_on(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    adata, option = anndata.read_h5ad(cells), ["--option", "target_sum=10"]
    done = scfm("embed", cells, "--model", model, *option, "-o", tmp_path / "embedded.h5ad")
    assert done.exit_code == 0, done.stderr
    expected = scfm_hf.embed(adata, str(model), target_sum=10, progress=False)
    written = anndata.read_h5ad(tmp_path / "embedded.h5ad")
    np.testing.assert_array_equal(written.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    assert written.uns["scfm"]["embed"]["options"]["target_sum"] == 10
    done = scfm("tokenize", cells, "--model", model, *option, "-o", tmp_path / "tokens")
    assert done.exit_code == 0, done.stderr
    assert len(load_from_disk(str(tmp_path / "tokens"))) == adata.n_obs
    done = scfm("annotate", cells, "--model", model, "--reference", cells, *option, "-o", tmp_path / "labels.h5ad")
    assert done.exit_code == 0, done.stderr
    assert anndata.read_h5ad(tmp_path / "labels.h5ad").uns["scfm"]["annotate"]["options"]["target_sum"] == 10


@pytest.mark.parametrize("command", ["embed", "tokenize"])
def test_an_option_that_the_tokenizer_has_not_is_named(
    scfm: Scfm, cells: Path, model: Path, tmp_path: Path, command: str
) -> None:
    done = scfm(command, cells, "--model", model, "--option", "spezies=mouse", "-o", tmp_path / "out.h5ad")
    assert done.exit_code == 1
    assert "spezies" in done.stderr
    assert not (tmp_path / "out.h5ad").exists()
