"""scGPT-spatial's values: counts over the mean of the slide and of the gene, in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from anndata import AnnData

from scfm_hf.errors import ExpressionError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.released import released_tokenizer
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    import anndata

GENES = ("CD3D", "LYZ", "MS4A1", "NKG7")
#: The mean of the last gene is not known.
MEANS = (1.0, 2.0, 0.5, np.nan)
SPECIAL = {"pad": "<pad>", "cls": "<cls>"}


def tokenizer(means: tuple[float, ...] | None = MEANS, **options: Any) -> CellTokenizer:
    vocabulary = GeneVocabulary(
        [*SPECIAL.values(), *GENES], special_tokens=SPECIAL, id_kind="symbol", species=("human",)
    )
    statistics = {} if means is None else {"gene_mean": np.array([np.nan, np.nan, *means])}
    return CellTokenizer.from_vocabulary(vocabulary, scheme="scgpt_spatial", statistics=statistics, **options)


def cells(counts: list[list[int]], **obs: Any) -> AnnData:
    made = AnnData(np.array(counts, np.float32), obs=obs or None)
    made.var_names = GENES
    return made


def values(made: CellTokenizer, adata: AnnData, **options: Any) -> list[list[float]]:
    """Values of each cell, that of ``<cls>`` left out."""
    return [row[1:] for row in made(adata, **options)["values"]]


TWO_CELLS = [[3, 0, 1, 8], [2, 2, 0, 0]]


def test_counts_are_divided_by_the_mean_of_the_slide_and_of_the_gene() -> None:
    # The mean of 3, 1, 8, 2, 2 is 3.2; that of the last gene, after division by it, 8 / 3.2.
    found = values(tokenizer(), cells(TWO_CELLS), n_bins=None)
    np.testing.assert_allclose(found[0], [3 / 3.2, 1 / 3.2 / 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found[1], [2 / 3.2, 2 / 3.2 / 2], rtol=1e-6)


def test_the_bins_are_those_of_the_cells_own_values() -> None:
    encoded = tokenizer()(cells([[3, 0, 1, 7]]), n_bins=51)
    # Relative to the slide (11 / 3) and to the genes they are 0.82, 0.55 and 1: half of the 50 edges are up to 0.82.
    assert encoded["values"] == [[-2, 25, 1, 50]]
    assert encoded["input_ids"] == [[1, 2, 4, 5]]


def test_without_means_the_slide_gives_all_of_them() -> None:
    found = values(tokenizer(means=None), cells(TWO_CELLS), n_bins=None)
    np.testing.assert_allclose(found[0], [3 / 2.5, 1.0, 1.0], rtol=1e-6)


def test_every_slide_has_its_own_means() -> None:
    made = tokenizer()
    both = cells([*TWO_CELLS, [9, 9, 0, 3]], slide=["a", "a", "b"])
    apart = [values(made, cells(TWO_CELLS)), values(made, cells([[9, 9, 0, 3]]))]
    assert values(made, both, slide_key="slide") == [*apart[0], *apart[1]]
    means = made.encode_cells(both, slide_key="slide", return_columns=("slide_mean",)).columns["slide_mean"]
    np.testing.assert_allclose(means, [3.2, 3.2, 7])
    together = made.encode_cells(both, return_columns=("slide_mean",)).columns["slide_mean"]
    np.testing.assert_allclose(together, 37 / 8)


def test_a_cell_whose_genes_all_have_means_does_not_depend_on_its_slide(human_pbmc: anndata.AnnData) -> None:
    made, adata = released_tokenizer("scgpt-spatial-v1"), human_pbmc[:12]
    known = ~np.isnan(made.statistics["gene_mean"])
    genes = [gene for gene in adata.var_names if gene in made.vocabulary and known[made.vocabulary.token_to_id[gene]]]
    adata = adata[:, genes].copy()
    assert adata.n_vars > 5000
    assert made(adata)["values"] == [made(adata[row])["values"][0] for row in range(12)]


def test_blocks_change_nothing(human_pbmc: anndata.AnnData) -> None:
    made, adata = released_tokenizer("scgpt-spatial-v1"), human_pbmc[:20].copy()
    adata.obs["slide"] = ["a", "b", "c", "b"] * 5
    whole = made(adata, slide_key="slide")
    assert made(adata, slide_key="slide", block_size=3)["values"] == whole["values"]


def test_places_come_with_the_number_of_their_slide() -> None:
    adata = cells([*TWO_CELLS, [9, 9, 0, 3]], slide=["a", "b", "a"], x=[1.5, 2, 3], y=[4, 5, 6])
    encoded = tokenizer()(adata, slide_key="slide", coordinates=("x", "y"), padding=True, return_tensors="np")
    assert encoded["coordinates"].tolist() == [[1.5, 4], [2, 5], [3, 6]]
    first, second, third = encoded["slide_index"].tolist()
    assert first == third != second
    assert "coordinates" not in tokenizer()(adata, slide_key="slide")


def test_columns_that_obs_lacks_or_leaves_empty_are_named() -> None:
    adata = cells(TWO_CELLS, slide=["a", None], x=[1, np.nan], y=[2, 3])
    with pytest.raises(ValueError, match=r"slide_key='section' is no column of obs\. There are: slide, x, y"):
        tokenizer()(adata, slide_key="section")
    with pytest.raises(ValueError, match=r"no 'slide' and so no slide \(first: 1\)"):
        tokenizer()(adata, slide_key="slide")
    with pytest.raises(ValueError, match="two columns of obs"):
        tokenizer()(adata, coordinates=("x", "z"))
    with pytest.raises(ValueError, match=r"no place \(first: 1\)"):
        tokenizer()(adata, coordinates=("x", "y"))


def test_normalised_values_are_refused_since_counts_are_wanted() -> None:
    adata = cells(TWO_CELLS)
    adata.X = np.log1p(adata.X)
    with pytest.raises(ExpressionError):
        tokenizer()(adata)


def test_counts_may_enter_as_they_are() -> None:
    as_they_are = {"normalise": False, "n_bins": None}
    assert values(tokenizer(), cells(TWO_CELLS), **as_they_are) == [[3, 1, 8], [2, 2]]
    assert values(tokenizer(), cells(TWO_CELLS), **as_they_are, include_zero_genes=True)[0] == [3, 0, 1, 8]


def test_the_released_tokenizer_has_the_published_numbers() -> None:
    made = released_tokenizer("scgpt-spatial-v1")
    assert len(made) == 60_697
    assert made.model_max_length == 1200
    means = made.statistics["gene_mean"]
    assert np.isfinite(means).sum() == 26_121
    assert means[made.vocabulary.token_to_id["A1BG"]] == pytest.approx(1.617986936082362)
    assert made.convert_ids_to_tokens([made.pad_token_id, made.cls_token_id]) == ["<pad>", "<cls>"]
