"""Sets of cells: who sees whom is what the caller says, from obs to the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.examples import Case, example_of

from scfm_hf import embed
from scfm_hf.models.cellplm.configuration_cellplm import ENCODERS

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from torch import Tensor

EXAMPLE = example_of("cellplm")
CASE = Case(EXAMPLE, "CellPLMModel")
OPTIONS = {"progress": False, "min_overlap": 0.0}


def embedding(sets: list[int] | None, rows: list[int] | slice = slice(None), **options: object) -> Tensor:
    """Embeddings of the example's cells in these sets."""
    batch = CASE.inputs(rows)
    if sets is not None:
        batch["cell_sets"] = torch.tensor(sets)
    with torch.no_grad():
        return CASE.model(**options)(**batch).cell_embedding


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "mlp"])
def test_cells_of_a_set_see_each_other_and_no_others(encoder: str) -> None:
    sets = [4, 7, 4, -1, 7, 7, -1, 9]
    together = embedding(sets, encoder_type=encoder)
    for members in ([0, 2], [1, 4, 5], [3], [6], [7]):
        alone = embedding([0] * len(members), members, encoder_type=encoder)
        assert torch.allclose(together[members], alone, atol=1e-5)
    assert not torch.allclose(together[[0, 1, 2]], embedding(None, encoder_type=encoder)[[0, 1, 2]], atol=1e-3)


def test_a_perceptron_sees_each_cell_alone() -> None:
    assert torch.allclose(embedding([0] * 8, encoder_type="mlp"), embedding(None, encoder_type="mlp"), atol=1e-6)


def test_a_set_of_one_is_a_cell_alone() -> None:
    alone = embedding(None)
    for sets in ([-1] * 8, list(range(8)), [3, 1, 4, 1000, 5, 9, 2, 6]):
        assert torch.allclose(embedding(sets), alone, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(-1, 3), min_size=8, max_size=8))
def test_the_order_of_the_cells_changes_nothing(order: list[int], sets: list[int]) -> None:
    expected = embedding(sets)
    assert torch.allclose(embedding([sets[row] for row in order], order), expected[order], atol=1e-5)


def test_cosformer_depends_on_the_order_within_a_set_alone() -> None:
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    sets = [0, 0, 0, 0, 1, 1, 1, 1]
    interleaved = embedding([sets[row] for row in order], order, encoder_type="cosformer")
    assert torch.allclose(interleaved, embedding(sets, encoder_type="cosformer")[order], atol=1e-5)


def test_a_cell_without_a_gene_takes_no_part_in_its_set() -> None:
    model, batch = CASE.model(), CASE.inputs()
    batch["cell_sets"] = torch.zeros(8, dtype=torch.long)
    batch["attention_mask"][3] = 0
    others = [0, 1, 2, 4, 5, 6, 7]
    with torch.no_grad():
        got = model(**batch).cell_embedding
        expected = model(**{name: value[others] for name, value in batch.items()}).cell_embedding
    assert (got[3] == 0).all()
    assert torch.allclose(got[others], expected, atol=1e-5)


def test_gradients_reach_the_other_cells_of_the_set_alone() -> None:
    model, batch = CASE.model(), CASE.inputs()
    batch["cell_sets"] = torch.tensor([0, 1, 0, 1, 0, 1, 0, -1])
    batch["values"].requires_grad_()
    model(**batch).cell_embedding[2].sum().backward()
    reached = batch["values"].grad.abs().sum(1) > 0
    assert reached.tolist() == [True, False, True, False, True, False, True, False]


def test_a_label_of_a_set_comes_to_each_of_its_cells() -> None:
    case = Case(EXAMPLE, "CellPLMForSequenceClassification")
    model, batch = case.model(label_sets=True), case.inputs()
    batch["cell_sets"] = torch.tensor([0, 1, 0, 1, 0, 1, 0, -1])
    with torch.no_grad():
        output = model(**batch)
    assert torch.equal(output.logits[0], output.logits[6])
    assert not torch.allclose(output.logits[0], output.logits[1])
    mean = model.cellplm(**batch).latent[[0, 2, 4, 6]].mean(0)
    assert torch.allclose(model.classifier(mean)[0], output.logits[0], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ tokenizer


@pytest.fixture
def cells() -> anndata.AnnData:
    made = EXAMPLE.cells.copy()
    made.obs["sample"] = list("babacaba")
    return made


def numbers(cells: anndata.AnnData, **options: object) -> list[int]:
    """Numbers of the sets, those that come first first."""
    found = EXAMPLE.tokenizer(cells, **options)["cell_sets"]
    return [list(dict.fromkeys(found)).index(number) for number in found]


def test_sets_are_named_by_a_column(cells: anndata.AnnData) -> None:
    assert numbers(cells, cell_sets="sample") == [0, 1, 0, 1, 2, 1, 0, 1]
    assert numbers(cells, cell_sets="all") == [0] * 8
    assert "cell_sets" not in EXAMPLE.tokenizer(cells)


@pytest.mark.parametrize("block_size", [1, 3, 256])
def test_large_sets_are_cut_into_consecutive_parts(cells: anndata.AnnData, block_size: int) -> None:
    options = {"max_cells_per_set": 2, "block_size": block_size}
    assert numbers(cells, cell_sets="sample", **options) == [0, 1, 0, 1, 2, 3, 4, 3]
    assert numbers(cells, cell_sets="all", max_cells_per_set=3, block_size=block_size) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_numbers_follow_from_the_label_alone(cells: anndata.AnnData) -> None:
    whole = EXAMPLE.tokenizer(cells, cell_sets="sample")["cell_sets"]
    half = EXAMPLE.tokenizer(cells[4:], cell_sets="sample")["cell_sets"]
    assert list(half) == list(whole[4:])
    cells.obs["sample"] = cells.obs["sample"].astype("category")
    assert list(EXAMPLE.tokenizer(cells, cell_sets="sample")["cell_sets"]) == list(whole)


def test_a_set_that_is_not_there_is_named(cells: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="cell_sets='slide' is no column of obs"):
        EXAMPLE.tokenizer(cells, cell_sets="slide")
    cells.obs.loc[cells.obs_names[2], "sample"] = None
    with pytest.raises(ValueError, match=cells.obs_names[2]):
        EXAMPLE.tokenizer(cells, cell_sets="sample")
    with pytest.raises(ValueError, match="max_cells_per_set=0"):
        EXAMPLE.tokenizer(cells, cell_sets="all", max_cells_per_set=0)


def test_coordinates_come_from_obs(cells: anndata.AnnData) -> None:
    cells.obs["x"], cells.obs["y"] = np.linspace(0, 1, 8), np.linspace(1, 0, 8)
    places = EXAMPLE.tokenizer(cells, cell_sets="all", coordinates=["x", "y"], return_tensors="np", padding=True)
    np.testing.assert_allclose(places["coordinates"], cells.obs[["x", "y"]].to_numpy(np.float32))
    cells.obs["y"] *= 4000
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        EXAMPLE.tokenizer(cells, coordinates=["x", "y"])


def test_zero_counts_change_no_embedding(cells: anndata.AnnData) -> None:
    model = CASE.model()
    expressed, measured = (
        EXAMPLE.tokenizer(cells, cell_sets="sample", include_zero_genes=zeros, return_tensors="pt", padding=True)
        for zeros in (False, True)
    )
    assert measured["input_ids"].shape[1] == len(EXAMPLE.vocabulary.gene_tokens)
    with torch.no_grad():
        difference = model(**measured).cell_embedding - model(**expressed).cell_embedding
    assert difference.abs().max() <= 1e-5


def test_too_long_cells_keep_their_highest_counts(cells: anndata.AnnData) -> None:
    whole, cut = (EXAMPLE.tokenizer(cells, max_length=length) for length in (None, 5))
    for long, short in zip(whole["values"], cut["values"], strict=True):
        assert sorted(short, reverse=True) == sorted(long, reverse=True)[:5]


# ---------------------------------------------------------------------------------------------------------------- tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its tokenizer."""
    model = CASE.model()
    model.save_pretrained(tmp_path)
    EXAMPLE.tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("cell_sets", ["sample", "all"])
def test_embedding_keeps_sets_whole(
    cells: anndata.AnnData, folder: Path, cell_sets: str, batch_size: int | None
) -> None:
    found = embed(cells, folder, cell_sets=cell_sets, batch_size=batch_size, **OPTIONS)
    groups = {"all": cells.obs_names} if cell_sets == "all" else cells.obs.groupby("sample").groups
    for members in groups.values():
        rows = cells.obs_names.get_indexer(members).tolist()
        expected = embedding([0] * len(rows), rows).numpy()
        np.testing.assert_allclose(found.obsm["X_cellplm"][rows], expected, atol=1e-5)
    assert found.uns["scfm"]["embed"]["options"]["cell_sets"] == cell_sets
