"""From the shell, each family goes from its original's files to embedded cells, and refuses what is not its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from parity.golden import Golden, golden_folders, golden_root
from parity.runner import rule_tables

from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Scfm
    from parity.golden import GoldenArray


def an_output(golden: Golden) -> GoldenArray:
    """An array of cell embeddings, or any output of the model if the variant has none."""
    outputs = [array for array in golden.arrays.values() if array.role == "output"]
    return next((array for array in outputs if "cell_embedding" in array.name), outputs[0])


def with_cells() -> list[Golden]:
    """Of each family a variant with a checkpoint and cells, one that holds embeddings of them if there is any."""
    chosen: dict[str, Golden] = {}
    whole = [
        golden for golden in map(Golden, golden_folders(golden_root())) if golden.checkpoint and golden.case().file
    ]
    for golden in sorted(whole, key=lambda golden: "cell_embedding" not in an_output(golden).name):
        if golden.family in rule_tables():
            chosen.setdefault(golden.family, golden)
    return [chosen[family] for family in sorted(chosen)]


each = pytest.mark.parametrize("golden", with_cells(), ids=lambda golden: golden.family)


def conversion(golden: Golden, scratch: Path) -> list[str]:
    """The words that follow ``scfm convert``, without family and output."""
    weights = next(golden.weights_of(an_output(golden)))
    arguments = dict(rule_tables()[golden.family].conversion(golden, weights, scratch))
    words = [str(arguments.pop("source"))]
    for role, file in arguments.pop("files", {}).items():
        words += ["--file", f"{role}={file}"]
    if "weights" in arguments:
        words += ["--weights", arguments.pop("weights")]
    for name, value in arguments.items():
        words += ["--option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words


@each
def test_original_files_become_embedded_cells(golden: Golden, scfm: Scfm, tmp_path: Path) -> None:
    case = golden.case()
    cells = case.cells()
    cells.obs_names_make_unique()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    source, *options = conversion(golden, tmp_path / "scratch")
    done = scfm("convert", golden.family, source, tmp_path / "model", *options)
    assert done.exit_code == 0, done.stderr
    call = ["embed", tmp_path / "cells.h5ad", "--model", tmp_path / "model", "--min-overlap", 0]
    done = scfm(*call, "--gene-column", case.gene_column, "-o", tmp_path / "out.h5ad")
    assert done.exit_code == 0, done.stderr
    vectors = anndata.read_h5ad(tmp_path / "out.h5ad").obsm[f"X_{golden.family}"]
    assert len(vectors) == cells.n_obs
    assert np.isfinite(vectors).all()


@each
def test_the_family_is_recognised_from_its_files_or_must_be_named(golden: Golden, scfm: Scfm, tmp_path: Path) -> None:
    """No family takes another's folder for its own."""
    source, *options = conversion(golden, tmp_path / "scratch")
    done = scfm("convert", source, tmp_path / "model", *options)
    if done.exit_code:
        assert "family" in done.stderr
        assert not (tmp_path / "model").exists()
    else:
        config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
        assert config["model_type"] == families()[golden.family].model_type


@each
def test_a_checkpoint_of_another_family_is_refused(golden: Golden, scfm: Scfm, tmp_path: Path) -> None:
    others = [other for other in with_cells() if other.family != golden.family]
    for other in others:
        done = scfm("convert", golden.family, other.checkpoint, tmp_path / other.family)
        assert done.exit_code == 1, other
        assert done.stderr
        assert not (tmp_path / other.family).exists(), other
