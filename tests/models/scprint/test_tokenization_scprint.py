"""scPRINT reads genes of a cell with their counts, fills up with genes that are not expressed, and knows the depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from models.scprint.originals import GENES

from scfm_hf.models.scprint.conversion_scprint import make_tokenizer

if TYPE_CHECKING:
    from scfm_hf.tokenization import CellTokenizer

HUMAN, MOUSE = GENES[:12], GENES[12:]
COUNTS = np.array(
    [
        [0, 5, 0, 2, 0, 0, 9, 0, 0, 2, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3],
    ],
    np.float32,
)


@pytest.fixture(scope="module")
def tokenizer() -> CellTokenizer:
    return make_tokenizer(GENES, ["NCBITaxon:9606", "NCBITaxon:10090"])


def cells(genes: list[str] = HUMAN, counts: np.ndarray = COUNTS) -> anndata.AnnData:
    adata = anndata.AnnData(counts.copy())
    adata.var_names, adata.obs_names = genes, [f"cell{number}" for number in range(len(counts))]
    return adata


def rows(tokenizer: CellTokenizer, adata: anndata.AnnData | None = None, **options: Any) -> list[list[int]]:
    return tokenizer(cells() if adata is None else adata, **options)["input_ids"]


def test_expressed_genes_come_in_the_order_of_the_vocabulary(tokenizer: CellTokenizer) -> None:
    encoded = tokenizer(cells(), fill=False)
    assert encoded["input_ids"][:2] == [[1, 3, 6, 9], [0]]
    assert encoded["values"][:2] == [[5.0, 2.0, 9.0, 2.0], [1.0]]


def test_the_highest_counts_come_first_and_equal_ones_in_the_order_of_the_vocabulary(tokenizer: CellTokenizer) -> None:
    found = rows(tokenizer, selection="most_expressed", fill=False, max_length=3)
    assert found == [[6, 1, 3], [0], [8, 7, 6]]


def test_a_random_choice_is_the_cells_own(tokenizer: CellTokenizer) -> None:
    found = rows(tokenizer, max_length=5, fill=False)
    assert len(found[2]) == len(set(found[2])) == 5
    assert rows(tokenizer, cells()[[2]].copy(), max_length=5, fill=False) == found[2:]
    assert rows(tokenizer, max_length=5, fill=False, seed=1)[2] != found[2]


def test_cells_are_filled_with_genes_that_they_do_not_express(tokenizer: CellTokenizer) -> None:
    encoded = tokenizer(cells(), max_length=7)
    for ids in encoded["input_ids"]:
        assert len(set(ids)) == len(ids) == 7
        assert max(ids) < len(HUMAN), "genes of another organism fill no cell"
    assert encoded["values"][0][4:] == [0.0, 0.0, 0.0]
    assert all(len(ids) == len(HUMAN) for ids in rows(tokenizer, max_length=2000)), "there are no more genes"


def test_added_genes_come_on_top(tokenizer: CellTokenizer) -> None:
    found = rows(tokenizer, max_length=3, added_genes=2, fill=False)
    assert [len(ids) for ids in found] == [5, 3, 3], "a cell that expresses all genes has none to add"


def test_genes_can_be_chosen(tokenizer: CellTokenizer) -> None:
    encoded = tokenizer(cells(), genes=[HUMAN[6], HUMAN[0]])
    assert encoded["input_ids"] == [[0, 6]] * 3
    assert encoded["values"] == [[0.0, 9.0], [1.0, 0.0], [1.0, 7.0]]
    with pytest.raises(ValueError, match="lacks 1 of the genes.*NONE"):
        rows(tokenizer, genes=[HUMAN[0], "NONE"])


def test_all_genes_are_those_of_the_organism(tokenizer: CellTokenizer) -> None:
    assert rows(tokenizer, selection="all")[1] == list(range(12))


def test_the_organism_follows_from_the_genes_or_is_named(tokenizer: CellTokenizer) -> None:
    mouse = cells(MOUSE, COUNTS[:, :8])
    assert rows(tokenizer, mouse, fill=False)[1] == [12]
    assert rows(tokenizer, mouse, species="mouse", fill=False)[1] == [12]
    assert rows(tokenizer, mouse, species="NCBITaxon:10090", fill=False)[1] == [12]
    with pytest.raises(ValueError, match="no genes of species='zebrafish'"):
        rows(tokenizer, mouse, species="zebrafish")


def test_depth_counts_genes_that_the_model_lacks(tokenizer: CellTokenizer) -> None:
    known = cells(["ENSG99999999999", *HUMAN[1:]])
    encoded = tokenizer(known[[0, 2]].copy(), fill=False)
    assert encoded["depth"] == [18.0, 51.0]
    assert [sum(values) for values in encoded["values"]] == [18.0, 50.0]


def test_wrong_options_are_named(tokenizer: CellTokenizer) -> None:
    for options, message in (
        ({"selection": "best"}, "selection='best' is not one of"),
        ({"added_genes": -1}, "added_genes=-1"),
        # Of two columns of a gene, the second would take the place of the first.
        ({"duplicates": "keep"}, "duplicates='keep' is not one of 'sum', 'refuse'"),
        # All counts would be 0.
        ({"species": "mouse"}, r"No gene of the file is of species='mouse': they are of the taxa \[9606\]"),
    ):
        with pytest.raises(ValueError, match=message):
            rows(tokenizer, **options)
