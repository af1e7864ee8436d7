"""The example cells that ship: real, labelled, attributed, and as they were built."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest

from scfm_hf.cells import CellMatrix, check_expression
from scfm_hf.data.examples import examples, load_example

NOTICE = Path(__file__).parents[2] / "NOTICE"


@pytest.mark.parametrize("name", examples())
def test_an_example_holds_raw_counts_ensembl_ids_and_labels(name: str) -> None:
    adata, about = load_example(name), examples()[name]
    check_expression(CellMatrix(adata), expects="counts")
    assert (adata.var["ensembl_id"].str.startswith("ENS")).mean() > 0.99
    assert adata.obs[about["labels"]].nunique() > 1


@pytest.mark.parametrize("name", examples())
def test_an_example_says_where_it_is_from_and_may_be_passed_on(name: str) -> None:
    about = examples()[name]
    assert all(about[field] for field in ("title", "source", "licence", "citation", "species"))
    assert load_example(name).uns["example"] == about
    assert f"scfm_hf/data/examples/{name}.h5ad" in NOTICE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", examples())
def test_an_example_is_small_and_as_it_was_built(name: str) -> None:
    content = (files("scfm_hf.data.examples") / f"{name}.h5ad").read_bytes()
    assert len(content) < 6e6
    assert hashlib.sha256(content).hexdigest() == examples()[name]["sha256"]


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="pbmc3k"):
        load_example("nothing")
