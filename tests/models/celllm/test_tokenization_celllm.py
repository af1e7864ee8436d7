"""CellLM's tokens: cls, then expressed genes in the model's order with log expression as a whole number."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization import CellTokenizer

GENES = ["CD3D", "GAPDH", "LYZ", "MS4A1", "NKG7"]
COUNTS = np.array([[0, 1, 300, 0, 9699], [5, 5, 0, 5, 0], [0, 0, 7, 0, 0]], np.float32)


@pytest.fixture
def tokenizer() -> CellTokenizer:
    vocabulary = GeneVocabulary(
        [*GENES, "<cls>", "<pad>"],
        special_tokens={"cls": "<cls>", "pad": "<pad>"},
        id_kind="symbol",
        species=("human",),
    )
    return CellTokenizer.from_vocabulary(vocabulary, scheme="celllm", max_length=10)


@pytest.fixture
def cells() -> anndata.AnnData:
    return anndata.AnnData(COUNTS.copy(), var=pd.DataFrame(index=GENES))


def test_values_are_rounded_down_and_cut_off(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    batch = tokenizer(cells, padding=True, return_tensors="np", return_columns=("expression",))
    assert batch["input_ids"].tolist() == [[5, 1, 2, 4], [5, 0, 1, 3], [5, 2, 6, 6]]
    assert batch["values"].tolist() == [[6, 1, 5, 5], [6, 5, 5, 5], [6, 5, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    assert np.allclose(batch["expression"][0], [0, 1, np.log2(301), np.log2(9700)])
    batch = tokenizer(cells, padding=True, return_tensors="np", target_sum=1.0)
    # Of less than 1 there is nothing left, and still the gene is there.
    assert batch["values"][0].tolist() == [6, 0, 0, 0]


def test_scale_and_base_are_options(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    asked = {"padding": True, "return_tensors": "np", "return_columns": ("expression",)}
    counts = tokenizer(cells, target_sum=None, log_base=None, **asked)
    assert counts["expression"][1].tolist() == [0, 5, 5, 5]
    natural = tokenizer(cells, target_sum=100.0, log_base="e", **asked)
    assert np.allclose(natural["expression"][2, 1], np.log(101))
    assert natural["values"][2].tolist() == [6, 4, 7, 7]
    with pytest.raises(ValueError, match="log_base='10'"):
        tokenizer(cells, log_base="10")


def test_a_long_cell_loses_the_last_genes_of_the_order(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    batch = tokenizer(cells, padding=True, return_tensors="np", max_length=3)
    assert batch["input_ids"].tolist() == [[5, 1, 2], [5, 0, 1], [5, 2, 6]]


def test_unknown_genes_do_not_count_for_the_scale(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    more = anndata.concat(
        [cells, anndata.AnnData(np.full((3, 1), 900, np.float32), var=pd.DataFrame(index=["UNKNOWN"]))], axis=1
    )
    more.obs_names = cells.obs_names
    asked = {"padding": True, "return_tensors": "np", "return_columns": ("expression",)}
    assert np.array_equal(tokenizer(more, **asked)["expression"], tokenizer(cells, **asked)["expression"])
