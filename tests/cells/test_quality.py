"""A look at a file tells what is in it, whatever is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest

from scfm_hf.cells import inspect_cells
from scfm_hf.genes import GeneMapper, GeneVocabulary

if TYPE_CHECKING:
    from pathlib import Path


def test_raw_counts_give_sizes_names_and_quality(human_pbmc: anndata.AnnData) -> None:
    report = inspect_cells(human_pbmc)
    assert (report.n_cells, report.n_genes) == (72, 13714)
    assert report.places == {"X": "raw counts"}
    assert (report.id_kind, report.species, report.id_columns) == ("symbol", "human", {"ensembl_id": "ensembl_id"})
    mitochondrial = human_pbmc.X[:, human_pbmc.var_names.str.startswith("MT-")].sum(1).A1
    assert report.mitochondrial_share == pytest.approx(np.median(mitochondrial / human_pbmc.X.sum(1).A1))
    assert report.median_total == np.median(human_pbmc.X.sum(1).A1)
    assert report.median_genes == np.median(np.diff(human_pbmc.X.indptr))
    assert (report.n_empty_cells, report.n_empty_genes) == (0, int((human_pbmc.X.sum(0).A1 == 0).sum()))
    assert report.groups == {"cell_type": 9, "donor": 1}
    text = str(report)
    assert "72 cells, 13,714 genes" in text
    assert "var['ensembl_id']: Ensembl ids" in text
    assert "vocabulary" not in text


def test_mitochondrial_genes_are_known_by_ensembl_id_too(human_lines: anndata.AnnData) -> None:
    by_id = inspect_cells(human_lines)
    human_lines.var_names = [f"{name}.7" for name in human_lines.var_names]
    assert by_id.id_kind == "ensembl_id"
    assert by_id.mitochondrial_share == inspect_cells(human_lines).mitochondrial_share
    assert 0 < by_id.mitochondrial_share < 0.2  # type: ignore[operator]


def test_every_place_of_values_is_told(human_pbmc: anndata.AnnData) -> None:
    human_pbmc.raw = human_pbmc.copy()
    human_pbmc.layers["log"] = human_pbmc.X.log1p()
    human_pbmc.layers["cpm"] = human_pbmc.X * 1e4 / 3
    human_pbmc.layers["scaled"] = human_pbmc.X.toarray() - 1
    human_pbmc.layers["holes"] = human_pbmc.X * np.nan
    human_pbmc.layers["zeros"] = human_pbmc.X * 0
    human_pbmc.layers["words"] = np.full(human_pbmc.shape, "a")
    human_pbmc.X = human_pbmc.layers["log"]
    report = inspect_cells(human_pbmc)
    assert report.places == {
        "X": "log-normalised",
        "layer log": "log-normalised",
        "layer cpm": "normalised, not logarithms",
        "layer scaled": "scaled or corrected (negative values)",
        "layer holes": "damaged (NaN or infinite values)",
        "layer zeros": "nothing but zeros",
        "layer words": "no numbers",
        "raw": "raw counts",
    }
    assert report.counts_place == "raw"
    assert "median of a cell in raw" in str(report)


def test_without_counts_it_says_so(human_pbmc: anndata.AnnData) -> None:
    human_pbmc.X = human_pbmc.X.log1p()
    report = inspect_cells(human_pbmc)
    assert report.counts_place is None
    assert report.median_total is None
    assert "no raw counts anywhere" in str(report)


def test_the_share_of_a_models_vocabulary_is_told(human_pbmc: anndata.AnnData) -> None:
    some = [name for name in human_pbmc.var["ensembl_id"][:5000].unique() if name]
    known = GeneVocabulary(some, id_kind="ensembl_id", species=("human",))
    report = inspect_cells(human_pbmc, mapper=GeneMapper(known, use_tables=False))
    assert report.vocabulary is not None
    assert report.vocabulary.share_of_genes == pytest.approx(5000 / 13714, abs=0.002)
    assert report.vocabulary.share_of_counts is not None
    assert "of 13,714 genes are in the vocabulary" in str(report)


def test_the_report_is_json(human_pbmc: anndata.AnnData) -> None:
    known = GeneVocabulary(list(human_pbmc.var_names), id_kind="symbol", species=("human",))
    report = inspect_cells(human_pbmc, mapper=GeneMapper(known))
    content = json.loads(json.dumps(report.to_dict()))
    assert content["places"] == {"X": "raw counts"}
    assert content["vocabulary"]["n_matched"] == 13714


def test_repeated_and_empty_ones_are_counted(human_pbmc: anndata.AnnData) -> None:
    human_pbmc.X.data[human_pbmc.X.indptr[3] : human_pbmc.X.indptr[4]] = 0
    human_pbmc.var_names = ["A", "A", "A", *human_pbmc.var_names[3:]]
    human_pbmc.obs_names = ["x", "x", *human_pbmc.obs_names[2:]]
    report = inspect_cells(human_pbmc)
    assert (report.n_repeated_genes, report.n_repeated_cells, report.n_empty_cells) == (2, 1, 1)
    assert "repeated names: 2 of genes, 1 of cells" in str(report)


def test_a_file_without_cells_and_a_view_are_looked_at_too(human_pbmc: anndata.AnnData) -> None:
    assert inspect_cells(human_pbmc[:0]).places == {"X": "nothing but zeros"}
    view = human_pbmc[::2, :9000]
    assert inspect_cells(view).to_dict() == inspect_cells(view.copy()).to_dict()


def test_a_backed_file_gives_the_same_report(tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
    human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert inspect_cells(backed).to_dict() == inspect_cells(human_pbmc).to_dict()
    backed.file.close()
