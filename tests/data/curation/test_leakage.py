"""Cells that two corpora share are found, whatever was done to them; cells that they do not share are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from data.curation.conftest import aligned_again, as_it_is

from scfm_hf.data.curation import leakage_report
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_copy_is_found_whatever_was_done_to_it(
    pbmc: Path,
    human_pbmc: anndata.AnnData,
    tmp_path: Path,
    disguise: Callable[[anndata.AnnData, Path], Path],
) -> None:
    copied = np.arange(5, 45)
    report = leakage_report(pbmc, disguise(human_pbmc[copied], tmp_path / "copy"))
    assert not report.clean
    assert (report.n_leaked_a, report.n_leaked_b) == (40, 40)
    np.testing.assert_array_equal(np.sort(report.pairs["row_a"]), copied)
    np.testing.assert_array_equal(report.pairs["row_a"], report.pairs["row_b"] + 5)
    assert set(report.pairs["kind"]) == {"same counts"}


@pytest.mark.parametrize("renamed", [False, True])
def test_cells_that_were_aligned_again_are_found(
    pbmc: Path, human_pbmc: anndata.AnnData, tmp_path: Path, renamed: bool
) -> None:
    copy = aligned_again(human_pbmc[10:50])
    if renamed:
        copy.obs_names = [f"renamed-{row}" for row in range(40)]
    report = leakage_report(pbmc, as_it_is(copy, tmp_path))
    np.testing.assert_array_equal(np.sort(report.pairs["row_b"]), np.arange(40))
    np.testing.assert_array_equal(report.pairs["row_a"], report.pairs["row_b"] + 10)
    assert set(report.pairs["kind"]) == {"alike"}
    assert set(report.pairs["found_by"]) == {"neighbour" if renamed else "barcode"}
    assert report.pairs["cosine"].between(0.9, 0.9999).all()
    assert report.pairs["difference"].between(0.001, 0.5).all()


@pytest.mark.extras
def test_an_approximate_search_finds_the_same(pbmc: Path, human_pbmc: anndata.AnnData) -> None:
    pytest.importorskip("pynndescent", reason="needs the extra curation")
    copy = aligned_again(human_pbmc[10:50])
    copy.obs_names = [f"renamed-{row}" for row in range(40)]
    report = leakage_report(pbmc, copy, search="approximate")
    assert report.pairs.equals(leakage_report(pbmc, copy).pairs)
    assert len(report.pairs) == 40


def test_splits_of_one_data_set_have_no_cell_in_common(human_pbmc: anndata.AnnData) -> None:
    train = np.arange(72) % 3 > 0
    report = leakage_report(human_pbmc[train], human_pbmc[~train])
    assert report.clean
    assert (report.n_cells_a, report.n_cells_b) == (48, 24)
    assert "No cell is in both: 48 cells against 24" in str(report)
    overlapping = leakage_report(human_pbmc[:50], human_pbmc[40:])
    assert (overlapping.n_leaked_a, overlapping.n_leaked_b) == (10, 10)


def test_rows_of_files_are_compared(pbmc: Path) -> None:
    mask = np.arange(72) < 30
    assert leakage_report({str(pbmc): mask}, {str(pbmc): ~mask}).clean
    report = leakage_report({str(pbmc): mask}, {str(pbmc): [3, 29, 30, 71]})
    assert report.pairs[["row_a", "row_b"]].to_numpy().tolist() == [[3, 3], [29, 29]]
    with pytest.raises(CorpusError, match="has 72 cells, its mask 30"):
        leakage_report({str(pbmc): mask[:30]}, {str(pbmc): ~mask})
    with pytest.raises(ValueError, match="no search 'fast'; there are auto, exact"):
        leakage_report(pbmc, pbmc, search="fast")


def test_backed_cells_are_compared(pbmc: Path, human_pbmc: anndata.AnnData) -> None:
    backed = anndata.read_h5ad(pbmc, backed="r")
    assert leakage_report(backed[:50], human_pbmc[40:]).n_leaked_a == 10
    assert backed.isbacked
    backed.file.close()


def test_the_report_tells_files_barcodes_and_groups(pbmc: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    other = human_pbmc[20:40].copy()
    other.obs["donor"] = other.obs["donor"].astype(str)
    other.obs.iloc[:3, other.obs.columns.get_loc("donor")] = "another"
    other.X = other.X.multiply(np.random.default_rng(0).poisson(1.0, other.shape)).tocsr()
    report = leakage_report(pbmc, as_it_is(other, tmp_path))
    assert report.clean
    line = report.files.iloc[0]
    assert (line["n_same_counts"], line["n_alike"], line["n_common_barcodes"]) == (0, 0, 20)
    assert report.groups["donor"] == (str(human_pbmc.obs["donor"].iloc[0]),)
    assert "Both have 1 values of 'donor'" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["groups"]["donor"]


def test_other_species_and_panels_share_nothing(
    pbmc: Path, human_lines: anndata.AnnData, mouse_oligodendrocytes: anndata.AnnData
) -> None:
    assert leakage_report(pbmc, human_lines).clean
    report = leakage_report(pbmc, mouse_oligodendrocytes)
    assert report.clean
    assert report.n_without_sketch == 40


def test_each_of_many_copies_of_one_cell_is_found(pbmc: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    with anndata.settings.override(check_uniqueness=False):
        many = human_pbmc[[7] * 20 + [8]].copy()
    many.obs_names = [f"cell{row}" for row in range(21)]
    report = leakage_report(pbmc, as_it_is(many, tmp_path))
    assert set(zip(report.pairs["row_a"], report.pairs["row_b"], strict=True)) == {(7, row) for row in range(20)} | {
        (8, 20)
    }


def test_a_file_that_cannot_be_used_is_named_or_skipped(
    pbmc: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    normalised = human_pbmc.copy()
    normalised.X = normalised.X.log1p()
    as_it_is(normalised, bad)
    (bad / "damaged.h5ad").write_bytes(pbmc.read_bytes()[:5000])
    with pytest.raises(CorpusError, match=r"copy\.h5ad does not hold raw counts"):
        leakage_report(pbmc, bad)
    report = leakage_report([pbmc, bad], pbmc, on_error="skip")
    assert report.n_leaked_b == 72
    assert [name.rpartition("/")[2] for name in report.skipped] == ["copy.h5ad", "damaged.h5ad"]
    with pytest.raises(CorpusError, match="No cell of b can be used"):
        leakage_report(pbmc, bad, on_error="skip")
