"""GeneCompass's tokens: genes of two species, ranked by counts over their medians."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pytest

from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization import CellTokenizer, encoding

HUMAN = [f"ENSG{number:011d}" for number in range(1, 4)]
MOUSE = [f"ENSMUSG{number:011d}" for number in range(1, 4)]
MEDIANS = np.array([1, 1, 1, 2, 1, 1, 2, 1], np.float64)
#: The first two genes of mouse have a homolog.
HOMOLOGS = np.array([np.nan] * 5 + [2, 3, np.nan])


def tokenizer(**statistics: np.ndarray) -> CellTokenizer:
    vocabulary = GeneVocabulary(
        ["<pad>", "<mask>", *HUMAN, *MOUSE],
        special_tokens={"pad": "<pad>", "mask": "<mask>"},
        id_kind="ensembl_id",
        species=("human", "mouse"),
    )
    return CellTokenizer.from_vocabulary(
        vocabulary, scheme="genecompass", statistics={"median": MEDIANS, **statistics}, max_length=2048
    )


def cells(genes: list[str]) -> anndata.AnnData:
    adata = anndata.AnnData(np.array([[4, 8, 6], [0, 3, 3]], np.float32))
    adata.var_names, adata.obs_names = genes, ["a", "b"]
    return adata


def ids(genes: list[str], given: CellTokenizer, **options: Any) -> list[list[int]]:
    return given(cells(genes), **options)["input_ids"]


def test_genes_are_ranked_by_count_over_median_and_equal_ones_keep_their_order() -> None:
    encoded = tokenizer()(cells(HUMAN))
    assert encoded["input_ids"] == [[4, 2, 3], [4, 3]]
    np.testing.assert_allclose(encoded["values"][0], np.log2([7, 5, 5]), rtol=1e-6)
    assert encoded["species_ids"] == [0, 0]


def test_genes_of_mouse_may_take_the_ids_of_their_homologs() -> None:
    given = tokenizer(homolog=HOMOLOGS)
    assert ids(MOUSE, given, species="mouse") == [[7, 5, 6], [7, 6]]
    assert ids(MOUSE, given, species="mouse", homologs_to_human=True) == [[7, 2, 3], [7, 3]]
    with pytest.raises(ValueError, match="homologs_to_human=True needs the homologs of the genes"):
        ids(MOUSE, tokenizer(), homologs_to_human=True)


def test_cells_of_mouse_that_are_taken_for_human_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(encoding.logger, "warning_once", said.append)
    ids(MOUSE, tokenizer(), species="mouse")
    # Genes of mouse that were written as their human homologs.
    ids(HUMAN, tokenizer(), species="mouse")
    assert not said
    ids(MOUSE, tokenizer())
    assert 'species="mouse"' in said[0]
