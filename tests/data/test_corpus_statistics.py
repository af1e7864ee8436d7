"""Statistics of a corpus equal those of all its cells in one table, in whatever order and parts they are read."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from scipy import sparse

from scfm_hf.data.corpus_statistics import CorpusStatistics, corpus_statistics
from scfm_hf.data.gene_quantiles import GeneQuantiles
from scfm_hf.data.gene_sums import ExactSums
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

needs_sketch = [
    pytest.mark.extras,
    pytest.mark.skipif(find_spec("ddsketch") is None, reason="needs the extra curation"),
]
ACCURACIES = [None, pytest.param(0.0025, marks=needs_sketch)]


def count(files: Any, **options: Any) -> CorpusStatistics:
    return corpus_statistics(files, **{"accuracy": None, "progress": False, **options})


def scaled_table(corpus_cells: anndata.AnnData, statistics: CorpusStatistics) -> NDArray[np.float64]:
    """All cells over the genes of the statistics, scaled to 10,000, (n_cells, n_genes)."""
    cells = np.asarray(corpus_cells.X.todense(), np.float64)
    column = {name: place for place, name in enumerate(corpus_cells.var_names)}
    return (cells * 1e4 / cells.sum(1, keepdims=True))[:, [column[gene] for gene in statistics.vocabulary.tokens]]


def same(one: CorpusStatistics, other: CorpusStatistics) -> bool:
    """Whether two statistics are equal to the last bit."""
    arrays = [(part.medians, part.n_expressing, part.deviations, part.bin_edges(11)) for part in (one, other)]
    sums = [[group.means for group in part.groups.values()] for part in (one, other)]
    return (
        one.groups.keys() == other.groups.keys()
        and one.n_cells == other.n_cells
        and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*arrays, strict=True))
        and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*sums, strict=True))
    )


@pytest.fixture(scope="module")
def parts(corpus_cells: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells in three files, the second with its genes in another order; the last gene is in the first one only."""
    folder = tmp_path_factory.mktemp("parts")
    corpus_cells[:30].copy().write_h5ad(folder / "a.h5ad")
    corpus_cells[30:55, 1998::-1].copy().write_h5ad(folder / "b.h5ad")
    corpus_cells[55:, :1999].copy().write_h5ad(folder / "c.h5ad")
    return folder


@pytest.fixture(scope="module")
def whole(corpus_cells: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells in one file, without the last gene where that is not measured, which changes totals a little."""
    file = tmp_path_factory.mktemp("whole") / "cells.h5ad"
    corpus_cells.copy().write_h5ad(file)
    return file


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_medians_means_and_deviations_are_those_of_the_table(
    whole: Path, corpus_cells: anndata.AnnData, accuracy: float | None
) -> None:
    statistics = count(whole, groups="cell_type", gene_column="var_names", accuracy=accuracy)
    table = scaled_table(corpus_cells, statistics)
    expressed = np.where(table > 0, table, np.nan)
    types = corpus_cells.obs["cell_type"].astype(str).to_numpy()
    np.testing.assert_array_equal(statistics.n_expressing, (table > 0).sum(0))
    np.testing.assert_allclose(statistics.medians, np.nanmedian(expressed, axis=0), rtol=1e-12)
    for name, sums in statistics.groups.items():
        cells = table[types == name]
        np.testing.assert_allclose(sums.means, cells.mean(0), atol=1e-8)
        np.testing.assert_allclose(sums.variances, np.log1p(cells).var(0), atol=1e-7)
    within = np.mean([np.log1p(table[types == name]).var(0) for name in statistics.groups], axis=0)
    np.testing.assert_allclose(statistics.deviations, np.sqrt(within), atol=1e-4)


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_the_result_does_not_depend_on_the_order_of_files_nor_on_the_parts(
    parts: Path, accuracy: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.h5ad", "b.h5ad", "c.h5ad"]
    options = {"groups": "cell_type", "gene_column": "var_names", "accuracy": accuracy, "exact_cells": 5}
    first = count([parts / name for name in names], **options)
    assert same(count([parts / name for name in names[::-1]], **options), first)
    monkeypatch.setattr("scfm_hf.data.corpus_statistics._READ_ROWS", 7)
    monkeypatch.setattr("scfm_hf.data.corpus_statistics._COUNTED_ROWS", 14)
    assert same(count(parts, **options), first)


def test_files_join_where_their_cells_are_the_same(parts: Path, whole: Path, corpus_cells: anndata.AnnData) -> None:
    joined, one = count(parts, gene_column="var_names"), count(whole, gene_column="var_names")
    assert joined.vocabulary == one.vocabulary
    last = joined.vocabulary.token_to_id[corpus_cells.var_names[-1]]
    assert sum(sums.n_measured[last] for sums in joined.groups.values()) == 30
    assert {int(sums.n_measured.max()) for sums in joined.groups.values()} == {30, 25, 17}


def test_statistics_of_files_are_kept_and_not_counted_again(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"groups": "cell_type", "gene_column": "var_names", "partial": tmp_path}
    first = count(parts, **options)
    assert len(list(tmp_path.glob("*.npz"))) == 3

    def never(*arguments: Any) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr("scfm_hf.data.corpus_statistics.counts_of", never)
    assert same(count(parts, **options), first)
    with pytest.raises(AssertionError, match="counted again"):
        count(parts, **options, target_sum=1e3)


def test_saving_keeps_everything(parts: Path, tmp_path: Path) -> None:
    first = count(parts, gene_column="var_names")
    first.save(tmp_path / "statistics.npz")
    again = CorpusStatistics.load(tmp_path / "statistics.npz")
    assert same(again, first)
    assert again.vocabulary == first.vocabulary
    (tmp_path / "statistics.npz").write_bytes((tmp_path / "statistics.npz").read_bytes()[:999])
    with pytest.raises(CorpusError, match="is damaged"):
        CorpusStatistics.load(tmp_path / "statistics.npz")


def test_statistics_of_other_genes_do_not_merge(parts: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        count(parts, gene_column="var_names").merge(count(whole, gene_column="ensembl_id"))
    with pytest.raises(ValueError, match="cannot be merged"):
        count(whole).merge(count(whole, target_sum=1e6))


def test_a_cell_without_counts_is_not_counted(corpus_cells: anndata.AnnData, tmp_path: Path) -> None:
    cells = corpus_cells[:10].copy()
    cells.X = sparse.csr_matrix(np.vstack([cells.X[:9].toarray(), np.zeros((1, 2000), np.float32)]))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    statistics = count(tmp_path / "cells.h5ad")
    assert statistics.n_cells == 9
    assert next(iter(statistics.groups.values())).n_measured.max() == 9


def test_a_cell_without_a_group_is_refused(corpus_cells: anndata.AnnData, tmp_path: Path) -> None:
    cells = corpus_cells[:10].copy()
    cells.obs["assay"] = np.array(["one", None] * 5, object)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(CorpusError, match="5 cells have no 'assay'"):
        count(tmp_path / "cells.h5ad", groups="assay")


def test_sums_are_the_same_in_any_order() -> None:
    generator = np.random.default_rng(0)
    places, values = generator.integers(0, 5, 4000), generator.lognormal(3, 3, 4000)
    one, other = ExactSums(5), ExactSums(5)
    one.add(places, values)
    for part in np.split(generator.permutation(4000), 8):
        piece = ExactSums(5)
        piece.add(places[part], values[part])
        other.merge(piece)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_allclose(one.values, np.bincount(places, values), rtol=1e-12)


@pytest.mark.extras
def test_quantiles_of_many_values_are_within_the_stated_error() -> None:
    pytest.importorskip("ddsketch", reason="needs the extra curation")
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.lognormal(center, 1.5, 30_000) for center in (-2, 0, 4)])
    genes = np.repeat(np.arange(3), 30_000)
    one, other = GeneQuantiles(4, accuracy=0.0025), GeneQuantiles(4, accuracy=0.0025)
    one.add(genes, values)
    for part in np.split(generator.permutation(len(values)), 9):
        other.add(genes[part], values[part])
    for share in (0, 0.01, 0.25, 0.5, 0.9, 1):
        truth = np.quantile(values.reshape(3, -1), share, axis=1)
        found = one.quantiles(share)
        assert (abs(found[:3] / truth - 1) <= 0.0025 + 1e-9).all()
        assert np.isnan(found[3])
        np.testing.assert_array_equal(found, other.quantiles(share))
    pooled = one.pooled_quantiles(np.array([0.1, 0.5]))
    assert (abs(pooled / np.quantile(values, [0.1, 0.5]) - 1) <= 0.0025 + 1e-9).all()


@pytest.mark.extras
def test_quantiles_are_those_of_the_library() -> None:
    ddsketch = pytest.importorskip("ddsketch", reason="needs the extra curation")
    values = np.random.default_rng(1).lognormal(1, 2, 2001)
    sketch, own = ddsketch.DDSketch(0.01), GeneQuantiles(1, accuracy=0.01)
    for value in values.tolist():
        sketch.add(value)
    own.add(np.zeros(2001, np.int64), values)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):  # places that are whole numbers: nothing lies between
        assert own.quantiles(share)[0] == pytest.approx(sketch.get_quantile_value(share), rel=1e-12)
