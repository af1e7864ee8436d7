"""Selection: sketches that see rare kinds of cells, and data sets added one by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from data.curation.conftest import as_it_is

from scfm_hf.data.curation import add_in_stages, geometric_sketch
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

SCORES = {"a": 0.5, "a b": 0.4, "a b c": 0.7, "a c": 0.8}
DATA_SETS = {"first": ["a"], "second": ["b"], "third": ["c"]}


def score(files: list[str]) -> float:
    return SCORES[" ".join(files)]


def test_each_stage_is_recorded_with_its_effect(tmp_path: Path) -> None:
    table = add_in_stages(DATA_SETS, score, record=tmp_path / "stages.json")
    assert table["score"].tolist() == [0.5, 0.4, 0.7]
    np.testing.assert_allclose(table["change"], [0.5, -0.1, 0.3])
    assert table["kept"].all()
    assert [stage["data_set"] for stage in json.loads((tmp_path / "stages.json").read_text())["stages"]] == [*DATA_SETS]


def test_a_data_set_that_does_not_help_can_be_left_out(tmp_path: Path) -> None:
    table = add_in_stages(DATA_SETS, score, record=tmp_path / "stages.json", only_better=True)
    assert table["kept"].tolist() == [True, False, True]
    np.testing.assert_allclose(table["change"], [0.5, -0.1, 0.3])


@pytest.mark.parametrize("only_better", [False, True])
def test_an_interrupted_run_goes_on_at_the_stage_that_was_not_done(tmp_path: Path, only_better: bool) -> None:
    seen: list[str] = []

    def interrupted(files: list[str]) -> float:
        if "c" in files and not seen.count("interrupted"):
            seen.append("interrupted")
            raise KeyboardInterrupt
        seen.append(" ".join(files))
        return score(files)

    options = {"record": tmp_path / "stages.json", "only_better": only_better}
    with pytest.raises(KeyboardInterrupt):
        add_in_stages(DATA_SETS, interrupted, **options)
    table = add_in_stages(DATA_SETS, interrupted, **options)
    assert seen == ["a", "a b", "interrupted", "a c" if only_better else "a b c"]
    assert table.equals(add_in_stages(DATA_SETS, score, record=tmp_path / "at_once.json", only_better=only_better))


def test_a_record_of_other_stages_is_refused(tmp_path: Path) -> None:
    add_in_stages({"first": ["a"]}, score, record=tmp_path / "stages.json")
    with pytest.raises(CorpusError, match="other stages"):
        add_in_stages({"first": ["b"]}, score, record=tmp_path / "stages.json")
    (tmp_path / "stages.json").write_text("[]")
    with pytest.raises(CorpusError, match="no record"):
        add_in_stages(DATA_SETS, score, record=tmp_path / "stages.json")
    with pytest.raises(ValueError, match="nan"):
        add_in_stages(DATA_SETS, lambda files: float("nan"), record=tmp_path / "other.json")


@pytest.mark.extras
def test_a_sketch_sees_rare_cells_more_often_than_chance(human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    pytest.importorskip("geosketch", reason="needs the extra curation")
    random = np.random.default_rng(0)
    kinds = human_pbmc.obs["cell_type"].astype(str).to_numpy()
    rare = kinds == sorted(set(kinds))[0]
    rows = np.concatenate([np.repeat(np.flatnonzero(~rare), 30), np.flatnonzero(rare)])
    with anndata.settings.override(check_uniqueness=False):
        many = human_pbmc[rows].copy()
    many.obs_names = [f"cell{row}" for row in range(many.n_obs)]
    many.X = many.X.copy()
    many.X.data = random.binomial(many.X.data.astype(int), 0.8).astype(np.float32)
    many.X.eliminate_zeros()
    place = str(as_it_is(many, tmp_path))
    state = np.random.get_state()[1].copy()
    chosen = geometric_sketch(place, 100, progress=False)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert list(chosen) == [place]
    assert chosen[place].sum() == 100
    share_of_rare = rare[rows].mean()
    assert rare[rows][chosen[place]].mean() > 2 * share_of_rare
    assert all((chosen[place] == geometric_sketch(place, 100, progress=False)[place]).tolist())
    with pytest.raises(ValueError, match="n_cells must be from 1"):
        geometric_sketch(place, many.n_obs + 1, progress=False)
