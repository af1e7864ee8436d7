"""Cells become a ``datasets.Dataset`` that the stock collators and Trainer take as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, load_from_disk
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

    from scfm_hf.tokenization import CellTokenizer


def test_one_line_a_cell_in_the_order_of_the_file(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    dataset, encoded = tokenizer.to_dataset(cells), tokenizer(cells)
    assert isinstance(dataset, Dataset)
    assert dataset["cell_id"][:] == cells.obs_names.tolist()
    assert dataset["input_ids"][:] == encoded["input_ids"]
    assert dataset["length"][:] == [len(row) for row in encoded["input_ids"]]
    assert set(dataset.column_names) == {*encoded} - {"attention_mask"} | {"length", "cell_id"}
    if "values" in encoded:
        assert dataset["values"][:] == encoded["values"]


def test_labels_are_classes_in_the_order_of_the_categories(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    given = cells.copy()
    names = sorted(set(given.obs["cell_type"]), reverse=True)
    given.obs["cell_type"] = pd.Categorical(given.obs["cell_type"], [*names, "never seen"])
    dataset = tokenizer.to_dataset(given, labels="cell_type")
    assert dataset.features["labels"] == ClassLabel(names=names)
    assert [names[number] for number in dataset["labels"]] == given.obs["cell_type"].tolist()
    assert tokenizer.to_dataset(cells, labels="cell_type").features["labels"].names == sorted(names)


def test_further_columns_come_along(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    given = cells.copy()
    given.obs["depth"] = np.arange(24) / 2
    dataset = tokenizer.to_dataset(given, columns=["donor", "depth"])
    assert dataset["donor"][:] == given.obs["donor"].astype(str).tolist()
    assert dataset["depth"][:] == given.obs["depth"].tolist()


def test_missing_columns_and_labels_are_named(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match="no column 'celltype'.*'cell_type'"):
        tokenizer.to_dataset(cells, labels="celltype")
    given = cells.copy()
    given.obs["cell_type"] = given.obs["cell_type"].astype(object)
    given.obs.iloc[4, given.obs.columns.get_loc("cell_type")] = None
    with pytest.raises(ValueError, match=f"1 cells have no 'cell_type'.*{cells.obs_names[4]}"):
        tokenizer.to_dataset(given, labels="cell_type")


def test_options_are_those_of_a_call(bin_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    dataset = bin_tokenizer.to_dataset(cells, max_length=30, n_bins=5)
    assert set(dataset["length"]) == {30}
    assert max(map(max, dataset["values"])) == 4
    with pytest.raises(ValueError, match="nonsense"):
        bin_tokenizer.to_dataset(cells, nonsense=True)


def test_the_stock_collator_makes_the_batch_of_a_call(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    dataset = tokenizer.to_dataset(cells, labels="cell_type").remove_columns(["length", "cell_id"])
    (batch,) = DataLoader(dataset, batch_size=24, collate_fn=DataCollatorWithPadding(tokenizer))
    expected = tokenizer(cells, padding=True, return_tensors="pt")
    for name, column in expected.items():
        assert torch.equal(batch[name], column), name
        assert batch[name].dtype == column.dtype
    assert batch["labels"].tolist() == dataset["labels"][:]


def test_labels_of_genes_are_padded_by_the_stock_collator(bin_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    dataset = bin_tokenizer.to_dataset(cells).remove_columns(["length", "cell_id"])
    dataset = dataset.map(lambda cell: {"labels": [number % 2 for number in cell["input_ids"]]})
    batch = DataCollatorForTokenClassification(bin_tokenizer)([dataset[row] for row in range(6)])
    assert batch["labels"].shape == batch["values"].shape == batch["input_ids"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_the_dataset_comes_back_from_disk(tokenizer: CellTokenizer, cells: anndata.AnnData, tmp_path: Path) -> None:
    dataset = tokenizer.to_dataset(cells, labels="cell_type")
    dataset.save_to_disk(str(tmp_path))
    loaded = load_from_disk(str(tmp_path))
    assert loaded.features == dataset.features
    assert loaded[:] == dataset[:]
    split = dataset.train_test_split(test_size=8, seed=0)
    assert split["test"].features["labels"].names == dataset.features["labels"].names
