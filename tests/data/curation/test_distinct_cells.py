"""Many different cells give no pair; copies planted among them are all found.

The cells are drawn from the counts of real ones: two draws from one cell are as alike as two cells can be that are two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from data.curation.conftest import aligned_again, by_ensembl_id, most_variable_genes_only
from scipy import sparse

from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.curation import leakage_report
from scfm_hf.data.curation.cell_sources import cell_sources
from scfm_hf.data.curation.duplicates import duplicate_pairs
from scfm_hf.data.curation.fingerprints import fingerprint
from scfm_hf.data.examples import load_example

if TYPE_CHECKING:
    from pathlib import Path


def write_draws(folder: Path, *, n_files: int, n_cells: int) -> Path:
    """Files of cells drawn anew from the counts of real cells, each with a barcode of its own."""
    folder.mkdir()
    real = load_example("pbmc3k")
    for number in range(n_files):
        random = np.random.default_rng(number)
        drawn = sparse.csr_matrix(real.X[random.integers(0, real.n_obs, n_cells)])
        drawn.data = random.poisson(drawn.data).astype(np.float32)
        drawn.eliminate_zeros()
        # Files seldom have the same genes.
        genes = np.sort(random.permutation(real.n_vars)[: int(0.98 * real.n_vars)])
        names = ["".join(letters) for letters in random.choice(list("ACGT"), (n_cells, 16))]
        cells = anndata.AnnData(drawn[:, genes], var=real.var.iloc[genes])
        cells.obs_names = [f"{name}-{number}" for name in names]
        cells.write_h5ad(folder / f"draws{number}.h5ad")
    return folder


def plant(folder: Path, copies: Path, n_cells: int) -> None:
    """Write copies of cells of one file: by Ensembl id, cut to variable genes, and aligned again, all renamed."""
    copies.mkdir()
    cells = anndata.read_h5ad(folder / "draws0.h5ad")
    for first, disguise in enumerate((by_ensembl_id, most_variable_genes_only)):
        (copies / str(first)).mkdir()
        chosen = cells[first * n_cells : (first + 1) * n_cells].copy()
        chosen.obs_names = [f"renamed-{row}" for row in range(n_cells)]
        disguise(chosen, copies / str(first))
    again = aligned_again(cells[2 * n_cells : 3 * n_cells])
    again.write_h5ad(copies / "again.h5ad")


def test_different_cells_are_no_pair_and_copies_among_them_are_found(tmp_path: Path) -> None:
    folder = write_draws(tmp_path / "draws", n_files=2, n_cells=600)
    prints = fingerprint(cell_sources(folder, Reading()))
    assert (prints.own_hashes > 0).all()
    assert duplicate_pairs(prints).empty
    plant(folder, tmp_path / "copies", 30)
    report = leakage_report(folder, tmp_path / "copies")
    assert report.n_leaked_b == report.n_leaked_a == 90
    np.testing.assert_array_equal(np.sort(report.pairs["row_a"]), np.arange(90))


@pytest.mark.full
def test_a_hundred_thousand_cells_give_no_false_pair(tmp_path: Path) -> None:
    folder = write_draws(tmp_path / "draws", n_files=10, n_cells=10_000)
    plant(folder, tmp_path / "copies", 300)
    prints = fingerprint(cell_sources(folder, Reading()))
    assert len(prints) == 100_000
    assert duplicate_pairs(prints).empty
    report = leakage_report(folder, tmp_path / "copies")
    np.testing.assert_array_equal(np.sort(report.pairs["row_a"]), np.arange(900))
