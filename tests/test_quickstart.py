"""``make quickstart`` in small: every step, the results that it leaves, and going on after an interruption."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest

from scfm_hf import quickstart
from scfm_hf.quickstart.cells import few_of_each
from scfm_hf.quickstart.figures import resample, scores

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ["--cells", "300", "--width", "16", "--pretraining-epochs", "1", "--epochs", "1"]
# umap-learn says so whenever it is imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")]


def run(folder: Path) -> dict[str, dict[str, float]]:
    return quickstart.main(["--output", str(folder), *SMALL])


def test_it_leaves_annotated_cells_a_picture_a_model_and_honest_figures(tmp_path: Path) -> None:
    figures = run(tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text())["figures"] == figures
    assert list(figures) == ["all labelled cells", "5 labelled cells a class"]
    for table in figures.values():
        assert {"shipped model, neighbours", "HVG + PCA, neighbours", "logistic regression on log counts"} < set(table)
        assert all(found["macro_f1_low"] <= found["macro_f1"] <= found["macro_f1_high"] for found in table.values())
    annotated = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    assert annotated.n_obs == 60
    correct = (annotated.obs["cell_type_predicted"].astype(str) == annotated.obs["cell_type"].astype(str)).mean()
    assert figures["all labelled cells"]["own small Geneformer, LoRA"]["accuracy"] == pytest.approx(correct)
    assert {"X_geneformer", "X_umap"} <= set(annotated.obsm)
    assert (tmp_path / "umap.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "base" / "model.safetensors").is_file()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_held_out_cells_are_none_of_those_that_were_learned_from() -> None:
    train, test = quickstart.split_cells(300, seed=0)
    few = few_of_each(train, 5, draw=1)
    assert few.obs["cell_type"].value_counts().max() == 5
    assert set(few.obs_names) <= set(train.obs_names)
    assert not set(train.obs_names) & set(test.obs_names)
    again, _ = quickstart.split_cells(300, seed=0)
    assert list(train.obs_names) == list(again.obs_names)
    assert "unassigned" not in set(train.obs["cell_type"]) | set(test.obs["cell_type"])


def test_an_interrupted_run_goes_on_to_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as interrupted:
        interrupted.setattr(quickstart, "fine_tune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "interrupted")
    assert (tmp_path / "interrupted" / "base" / "config.json").is_file()
    monkeypatch.setattr(quickstart.own_model, "draw", lambda *args: None)
    monkeypatch.setattr(quickstart, "label_by_shipped_model", lambda *args, **options: {"all labelled cells": {}})
    figures = run(tmp_path / "interrupted")
    assert "pretraining is skipped" in capsys.readouterr().out
    assert figures == run(tmp_path / "whole")


def interrupt(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_intervals_hold_the_figure_and_a_class_that_a_sample_lacks_does_not_count() -> None:
    wanted = np.array(["a"] * 50 + ["b"] * 2)
    times = resample(52, seed=0)
    sure = scores(wanted, [wanted], times)
    assert sure["macro_f1"] == sure["macro_f1_low"] == sure["macro_f1_high"] == 1
    told = np.array(["a"] * 40 + ["b"] * 12)
    found = scores(wanted, [told, wanted], times)
    assert found["accuracy"] == pytest.approx((42 / 52 + 1) / 2)
    assert found["macro_f1_low"] < found["macro_f1"] < found["macro_f1_high"]
