"""Curation tells what is known of every cell, and changes nothing until it is asked to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
from data.curation.conftest import aligned_again, as_it_is, by_ensembl_id

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.curation import FLAGS, Curation, QualityLimits, curate_corpus, write_kept_cells, write_report
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = QualityLimits(min_counts=1500, min_genes=500, max_mitochondrial_share=0.05)


@pytest.fixture
def corpus(pbmc: Path, human_pbmc: anndata.AnnData) -> Path:
    """72 cells; ten of them again by Ensembl id in another file, five others aligned again in a third."""
    folder = pbmc.parent
    copies = human_pbmc[:10].copy()
    copies.obs["is_primary_data"] = False
    by_ensembl_id(copies, folder).rename(folder / "copies.h5ad")
    as_it_is(aligned_again(human_pbmc[20:25]), folder).rename(folder / "realigned.h5ad")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_cell_has_a_line_and_no_file_is_changed(corpus: Path, human_pbmc: anndata.AnnData) -> None:
    before = digests(corpus)
    curation = curate_corpus(corpus, limits=LIMITS, progress=False)
    assert digests(corpus) == before
    cells = curation.cells
    assert cells.groupby("file", sort=False).size().tolist() == [10, 72, 5]
    assert cells["row"].tolist() == [*range(10), *range(72), *range(5)]
    own = cells.iloc[10:82]
    assert own["cell_id"].tolist() == human_pbmc.obs_names.tolist()
    np.testing.assert_array_equal(own["n_counts"], np.asarray(human_pbmc.X.sum(axis=1)).ravel())
    np.testing.assert_array_equal(own["n_genes"], np.diff(human_pbmc.X.indptr))
    mitochondrial = human_pbmc.var_names.str.startswith("MT-")
    share = np.asarray(human_pbmc[:, mitochondrial].X.sum(axis=1)).ravel() / own["n_counts"]
    np.testing.assert_allclose(own["mitochondrial_share"], share)
    assert (own["few_counts"] == (own["n_counts"] < 1500)).all()
    assert (own["few_genes"] == (own["n_genes"] < 500)).all()
    assert (own["high_mitochondrial"] == (own["mitochondrial_share"] > 0.05)).all()


def test_of_cells_that_are_one_the_primary_one_is_kept(corpus: Path) -> None:
    cells = curate_corpus(corpus, progress=False).cells
    copies, own, realigned = cells.iloc[:10], cells.iloc[10:82], cells.iloc[82:]
    assert copies["not_primary"].all()
    assert copies["duplicate"].all()
    assert copies["copy_of_row"].tolist() == list(range(10))
    assert copies["copy_of_file"].str.endswith("pbmc.h5ad").all()
    assert not own[["duplicate", "not_primary"]].to_numpy().any()
    # Of two alignments the one with more counts is kept.
    fewer = realigned["n_counts"].to_numpy() < own["n_counts"].iloc[20:25].to_numpy()
    np.testing.assert_array_equal(realigned["near_duplicate"], fewer)
    np.testing.assert_array_equal(own["near_duplicate"].iloc[20:25], ~fewer)
    assert own["near_duplicate"].sum() == (~fewer).sum()


def test_applying_the_flags_is_a_step_of_its_own(corpus: Path, tmp_path: Path) -> None:
    curation = curate_corpus(corpus, limits=LIMITS, progress=False)
    keep = curation.keep(["duplicate", "near_duplicate"])
    assert sum(mask.sum() for mask in keep.values()) == 72
    options = {"cell_ids": True, "block_size": 4, "window_size": 16}
    stream = load_corpus(corpus, keep=keep, **options)
    names = [cell["cell_id"] for cell in stream]
    assert len(names) == len(stream) == len(set(names)) == 72
    assert names == [cell["cell_id"] for cell in load_corpus(corpus, keep=keep, **options)]
    written = write_kept_cells(keep, tmp_path / "kept", progress=False)
    assert sorted(written.values()) == sorted(path.name for path in (tmp_path / "kept").iterdir())
    files = [anndata.read_h5ad(tmp_path / "kept" / name) for name in written.values()]
    assert sorted(names) == sorted(name for file in files for name in file.obs_names)
    own = next(file for file, name in zip(files, written.values(), strict=True) if name == "pbmc.h5ad")
    original = anndata.read_h5ad(corpus / "pbmc.h5ad")[own.obs_names]
    assert (own.X != original.X).nnz == 0
    pd.testing.assert_frame_equal(own.obs.astype(str), original.obs.astype(str), check_index_type=False)
    with pytest.raises(ValueError, match="no flag 'dubious'"):
        curation.keep(["dubious"])


def test_what_is_saved_is_read_again(corpus: Path, tmp_path: Path) -> None:
    curation = curate_corpus(corpus, progress=False)
    curation.save(tmp_path / "saved")
    again = Curation.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(again.cells, curation.cells, check_dtype=False)
    pd.testing.assert_frame_equal(again.pairs, curation.pairs, check_dtype=False)
    assert str(again) == str(curation)
    assert again.options == curation.options
    with pytest.raises(FileExistsError):
        curation.save(tmp_path / "saved")
    (tmp_path / "saved" / "cells.parquet").write_bytes(b"")
    with pytest.raises(CorpusError, match="no saved curation"):
        Curation.load(tmp_path / "saved")


def test_the_report_says_what_was_flagged_and_why(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    curation = curate_corpus(corpus, limits=LIMITS, progress=False)
    page = write_report(curation, tmp_path / "report").read_text()
    assert "87 cells in 3 files" in page
    assert all(f"| {name} | {meaning} |" in page for name, meaning in FLAGS.items())
    assert "| copies.h5ad | pbmc.h5ad | same counts | hash | 10 | 1.000 | 0.000 |" in page
    for plot in ("n_counts.png", "n_genes.png", "mitochondrial_share.png", "flags.png"):
        assert plot in page
        assert (tmp_path / "report" / plot).read_bytes().startswith(b"\x89PNG")
    assert "doublet_score.png" not in page


def test_bad_files_are_named_or_skipped(corpus: Path, human_pbmc: anndata.AnnData) -> None:
    normalised = human_pbmc.copy()
    normalised.X = normalised.X.log1p()
    as_it_is(normalised, corpus).rename(corpus / "normalised.h5ad")
    as_it_is(human_pbmc[:0].copy(), corpus).rename(corpus / "empty.h5ad")
    late = human_pbmc.copy()
    late.X.indices[-1] = 20_000
    as_it_is(late, corpus).rename(corpus / "late.h5ad")
    (corpus / "damaged.h5ad").write_bytes((corpus / "pbmc.h5ad").read_bytes()[:3000])
    with pytest.raises(CorpusError, match=r"damaged\.h5ad cannot be read"):
        curate_corpus(corpus, progress=False)
    curation = curate_corpus(corpus, on_error="skip", progress=False)
    assert {name.rpartition("/")[2] for name in curation.skipped} == {
        "normalised.h5ad",
        "empty.h5ad",
        "late.h5ad",
        "damaged.h5ad",
    }
    assert len(curation.cells) == 87
    assert "Skipped" in str(curation)


def test_a_sample_column_that_a_file_lacks_is_refused_or_skipped(corpus: Path, human_pbmc: anndata.AnnData) -> None:
    without = human_pbmc[:5].copy()
    del without.obs["donor"]
    as_it_is(without, corpus).rename(corpus / "without.h5ad")
    with pytest.raises(CorpusError, match=r"without\.h5ad: obs has no column 'donor'"):
        curate_corpus(corpus, sample_column="donor", progress=False)
    curation = curate_corpus(corpus, sample_column="donor", on_error="skip", progress=False)
    assert len(curation.skipped) == 1
    assert (curation.cells["sample"] == str(human_pbmc.obs["donor"].iloc[0])).all()


def test_a_file_changed_since_its_curation_is_noticed(
    corpus: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    keep = curate_corpus(corpus, progress=False).keep()
    human_pbmc[:50].copy().write_h5ad(corpus / "pbmc.h5ad")
    with pytest.raises(ValueError, match=r"50 cells of .*pbmc\.h5ad.*changed"):
        load_corpus(corpus, keep=keep)
    with pytest.raises(CorpusError, match=r"pbmc\.h5ad has 50 cells, not 72"):
        write_kept_cells(keep, tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()
    numbers = {place: np.arange(len(mask)) for place, mask in keep.items()}
    with pytest.raises(ValueError, match="True or False for each cell"):
        write_kept_cells(numbers, tmp_path / "kept", progress=False)
    assert not (tmp_path / "kept").exists()
