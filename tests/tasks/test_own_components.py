"""Principal components of the cells at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse
from transformers import AutoTokenizer

from scfm_hf.tasks.own_components import common_counts, dispersion_ranks, join_unit, principal_components

if TYPE_CHECKING:
    from pathlib import Path

    import anndata


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_components_part_cells_of_two_types(random: np.random.Generator) -> None:
    """The only difference is 20 of 300 genes."""
    rates = np.ones((2, 300))
    rates[1, :20] = 8
    types = random.integers(2, size=200)
    counts = sparse.csr_array(random.poisson(rates[types]).astype(np.float32))
    first, second = principal_components([counts[:120], counts[120:]], n_components=5, n_genes=100)
    assert first.shape == (120, 5)
    assert first.dtype == np.float32
    side = np.sign(np.concatenate([first, second])[:, 0])
    assert abs((side * np.where(types, 1, -1)).mean()) > 0.95


def test_a_gene_that_differs_between_batches_alone_does_not_rule(random: np.random.Generator) -> None:
    rates = np.ones((2, 300))
    rates[1, 100:150] = 20
    batches = [sparse.csr_array(random.poisson(np.tile(rate, (100, 1))).astype(np.float32)) for rate in rates]
    ranks = [dispersion_ranks(np.asarray(one.mean(0)), np.asarray(one.toarray().var(0))) for one in batches]
    assert np.mean(ranks, 0)[100:150].mean() > 75
    together = principal_components([sparse.csr_array(sparse.vstack(batches))], n_components=2, n_genes=50)[0]
    apart = np.concatenate(principal_components(batches, n_components=2, n_genes=50))
    gap = [np.linalg.norm(one[:100].mean(0) - one[100:].mean(0)) / one.std() for one in (together, apart)]
    assert gap[1] < gap[0]


def test_components_can_be_fitted_on_the_first_group_alone(random: np.random.Generator) -> None:
    groups = [sparse.csr_array(random.poisson(1, (50, 80)).astype(np.float32)) for _ in range(3)]
    alone = principal_components(groups[:2], n_components=4, fitted_on=1)
    beside = principal_components([groups[0], groups[2]], n_components=4, fitted_on=1)
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)


def test_there_are_no_components_of_equal_cells() -> None:
    with pytest.raises(ValueError, match="No gene varies"):
        principal_components([sparse.csr_array((5, 4), dtype=np.float32)])


def test_symbols_and_ensembl_ids_meet_in_the_vocabulary(human_pbmc: anndata.AnnData) -> None:
    tokenizer = AutoTokenizer.from_pretrained("scfm_hf/cellprofile-human")
    renamed = human_pbmc[:, ::-1].copy()
    renamed.var_names = renamed.var["ensembl_id"].astype(str).to_numpy()
    first, second = common_counts([human_pbmc, renamed], tokenizer)
    assert abs(first - second).max() == 0
    assert first.shape[1] > 100


def test_data_sets_without_a_common_gene_are_refused(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    other = human_pbmc.copy()
    other.var_names = [f"gene{number}" for number in range(other.n_vars)]
    with pytest.raises(ValueError, match="0 genes in common"):
        common_counts([human_pbmc, other], AutoTokenizer.from_pretrained(model_folder), gene_column="var_names")


def test_joined_parts_have_unit_length_and_zeros_stay() -> None:
    joined = join_unit(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[2.0], [-1.0]]))
    np.testing.assert_allclose(joined, [[0.6, 0.8, 1], [0, 0, -1]])
