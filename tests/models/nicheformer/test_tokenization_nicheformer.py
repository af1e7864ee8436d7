"""Nicheformer's tokens: context first, then genes by expression relative to their technology."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.nicheformer.context_nicheformer import SPECIAL_TOKENS
from scfm_hf.models.nicheformer.ties_nicheformer import numba_argsort
from scfm_hf.models.nicheformer.tokenization_nicheformer import rounded_means
from scfm_hf.models.released import released_tokenizer
from scfm_hf.tokenization import CellTokenizer, encoding

if TYPE_CHECKING:
    import anndata


@pytest.fixture(scope="module")
def tokenizer() -> CellTokenizer:
    return released_tokenizer("nicheformer")


def tokens(tokenizer: CellTokenizer, cells: anndata.AnnData, row: int = 0, **options: Any) -> list[str]:
    """Tokens of one cell."""
    return tokenizer.convert_ids_to_tokens(tokenizer.encode_cells(cells, **options).columns["input_ids"].row(row))


def one_by_one(tokenizer: CellTokenizer, cells: anndata.AnnData, means: np.ndarray, row: int) -> list[str]:
    """The definition, for a cell whose genes are named by Ensembl id; columns of one gene are summed."""
    counts: dict[str, float] = {}
    for gene, count in zip(cells.var["ensembl_id"], cells.X[row].toarray().ravel(), strict=True):
        if gene in tokenizer.vocabulary and count:
            counts[gene] = counts.get(gene, 0.0) + float(count)
    genes = sorted(counts, key=tokenizer.vocabulary.token_to_id.__getitem__)
    expression = np.array([counts[gene] for gene in genes])
    scores = expression * (10_000 / expression.sum()) / means[tokenizer.vocabulary.ids(genes)]
    return [genes[place] for place in np.argsort(-scores, kind="stable")]


def test_genes_come_by_expression_relative_to_the_mean_of_their_technology(
    tokenizer: CellTokenizer, human_pbmc: anndata.AnnData
) -> None:
    cells = human_pbmc[:6]
    for technology in ("dissociated", "merfish"):
        means = rounded_means(tokenizer.statistics[f"{technology}_mean"])
        encoded = [
            tokens(tokenizer, cells, row, gene_column="ensembl_id", technology=technology, max_length=10_000)
            for row in range(6)
        ]
        assert [cell[2:] for cell in encoded] == [one_by_one(tokenizer, cells, means, row) for row in range(6)]


def test_the_context_comes_first_in_the_order_species_assay_modality(
    tokenizer: CellTokenizer, human_pbmc: anndata.AnnData
) -> None:
    assert tokens(tokenizer, human_pbmc)[:2] == ["<human>", "<dissociated>"]
    told = {"species": "Mus musculus", "assay": "10X 5' V1", "modality": "spatial"}
    assert tokens(tokenizer, human_pbmc, **told)[:3] == ["<mouse>", "<10x-5'-v1>", "<spatial>"]
    bare = tokens(tokenizer, human_pbmc, species=None, modality=None)
    assert bare[0].startswith("ENSG")
    assert tokens(tokenizer, human_pbmc, max_length=10)[2:] == bare[:8]


def test_columns_of_obs_tell_the_context_cell_by_cell(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    cells = human_pbmc[:4].copy()
    cells.obs["assay"] = ["Xenium", "10x 3' v3"] * 2
    for row, assay in enumerate(cells.obs["assay"]):
        assert tokens(tokenizer, cells, row, assay_column="assay") == tokens(tokenizer, cells, row, assay=assay)
    with pytest.raises(ValueError, match="no column 'platform'"):
        tokens(tokenizer, cells, assay_column="platform")
    cells.obs["assay"] = "a new one"
    with pytest.raises(ValueError, match=r"no assay 'a new one'.*xenium"):
        tokens(tokenizer, cells, assay_column="assay")


def test_the_assay_chooses_the_technology(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    for assay, technology in (("Xenium", "xenium"), ("MERFISH", "merfish"), ("10x 3' v2", "dissociated")):
        chosen = tokens(tokenizer, human_pbmc, assay=assay)
        assert chosen == tokens(tokenizer, human_pbmc, assay=assay, technology=technology)
    with pytest.raises(ValueError, match=r"no means of the technology 'visium'.*cosmx, dissociated, iss"):
        tokens(tokenizer, human_pbmc, technology="visium")


def test_without_rounding_the_genes_without_a_mean_follow_in_every_cell(
    tokenizer: CellTokenizer, human_pbmc: anndata.AnnData
) -> None:
    encoded = tokens(tokenizer, human_pbmc, technology_mean="raw", max_length=20_000)
    without = np.flatnonzero(np.isnan(tokenizer.statistics["dissociated_mean"]))[len(SPECIAL_TOKENS) :]
    assert encoded[-len(without) :] == tokenizer.convert_ids_to_tokens(without)
    assert len(set(encoded)) == len(encoded)


def test_cells_of_mouse_that_are_taken_for_human_ones_are_named(
    tokenizer: CellTokenizer, mouse_oligodendrocytes: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(encoding.logger, "warning_once", said.append)
    for told in ({"species": "mouse"}, {"species": None}):
        tokenizer(mouse_oligodendrocytes, **told)
    assert not said
    tokenizer(mouse_oligodendrocytes)
    assert len(said) == 1
    assert 'species="mouse"' in said[0]


def test_mouse_genes_go_by_the_names_of_their_human_orthologs(
    tokenizer: CellTokenizer, mouse_oligodendrocytes: anndata.AnnData
) -> None:
    by_id = tokens(tokenizer, mouse_oligodendrocytes, species="mouse", gene_column="ensembl_id")
    by_symbol = tokens(tokenizer, mouse_oligodendrocytes, species="mouse", gene_column="var_names")
    assert by_id[0] == "<mouse>"
    assert len(set(by_id) & set(by_symbol)) > 0.95 * len(by_id)
    assert sum(token.startswith("ENSG") for token in by_id) > 0.9 * len(by_id)


def test_the_released_vocabulary_has_the_published_numbers(tokenizer: CellTokenizer) -> None:
    assert len(tokenizer) == 20_340
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.cls_token_id) == (0, 1, 2)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(30))
    missing = {name: int(np.isnan(values[30:]).sum()) for name, values in tokenizer.statistics.items()}
    assert missing == {
        "dissociated_mean": 60,
        "merfish_mean": 14_505,
        "cosmx_mean": 18_453,
        "xenium_mean": 18_575,
        "iss_mean": 19_776,
    }


def test_options_that_do_not_exist_are_refused(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    for option in ({"ties": "any"}, {"technology_mean": "log"}):
        with pytest.raises(ValueError, match="is not one of"):
            tokens(tokenizer, human_pbmc, **option)
    with pytest.raises(ValueError, match="leaves no place for genes"):
        tokens(tokenizer, human_pbmc, max_length=2)


def test_a_vocabulary_without_a_context_token_says_so(human_pbmc: anndata.AnnData) -> None:
    genes = [gene for gene in dict.fromkeys(human_pbmc.var["ensembl_id"]) if gene][:9000]
    vocabulary = GeneVocabulary(
        ["<pad>", *genes], special_tokens={"pad": "<pad>"}, id_kind="ensembl_id", species=("human",)
    )
    options = {"scheme": "nicheformer", "technology_mean": "none"}
    with pytest.raises(ValueError, match="lacks the context token <human>"):
        CellTokenizer.from_vocabulary(vocabulary, **options)
    bare = CellTokenizer.from_vocabulary(vocabulary, **options, species=None, modality=None)
    assert tokens(bare, human_pbmc)[0].startswith("ENSG")


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.4, 1), (0.5, 1), (1.5, 2), (2.4, 2), (np.nan, 1), (-0.4, 1), (-1.5, -1), (-1.6, -2)]
)
def test_means_are_rounded_half_up_and_never_0(mean: float, expected: float) -> None:
    assert rounded_means(np.array([mean])).tolist() == [expected]


@given(keys=arrays(np.float64, st.integers(0, 80), elements=st.sampled_from([-3.0, -2.0, -1.5, -1.0, np.nan])))
def test_the_originals_order_sorts_and_takes_nan_for_largest(keys: np.ndarray) -> None:
    order = numba_argsort(keys)
    assert sorted(order.tolist()) == list(range(len(keys)))
    assert np.array_equal(keys[order], np.sort(keys), equal_nan=True)


def test_ties_stand_where_the_originals_quicksort_leaves_them() -> None:
    """Recorded from ``numba.njit(numpy.argsort)``; a stable sort gives 0, 3, 6 ... first."""
    keys = np.arange(20) % 3 * 1.0
    expected = [18, 15, 12, 6, 9, 3, 0, 7, 19, 10, 13, 1, 16, 4, 5, 8, 11, 2, 14, 17]
    assert numba_argsort(keys).tolist() == expected
    assert numba_argsort(np.zeros(5)).tolist() == [0, 1, 2, 3, 4]
