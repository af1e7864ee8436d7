"""scGPT-spatial's experts, neighbour objective and losses, beyond what every family is tested for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.examples import example_of
from torch import Tensor

from scfm_hf.models.scgpt_spatial.configuration_scgpt_spatial import ScGPTSpatialConfig
from scfm_hf.models.scgpt_spatial.domains_scgpt_spatial import refine_labels, spot_distance
from scfm_hf.models.scgpt_spatial.experts_scgpt_spatial import ExpertDecoder
from scfm_hf.models.scgpt_spatial.neighbours_scgpt_spatial import neighbour_means, spatial_patches
from scfm_hf.models.scgpt_spatial.pretraining_scgpt_spatial import ScGPTSpatialForPreTraining
from scfm_hf.nn.losses import masked_mse
from scfm_hf.tokenization.draws import CellDraws
from scfm_hf.training.masking import mask_each

if TYPE_CHECKING:
    import anndata

EXAMPLE = example_of("scgpt_spatial")
NAME = "ScGPTSpatialForPreTraining"


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return ScGPTSpatialForPreTraining(EXAMPLE.config(NAME, **options)).eval()


def batch() -> dict[str, Tensor]:
    inputs = EXAMPLE.inputs(NAME)
    return {**inputs, **EXAMPLE.labels(NAME, EXAMPLE.config(NAME), inputs)}


def without(given: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in given.items() if name not in names}


# -------------------------------------------------------------------------------------------------------------- experts


@torch.no_grad()
@pytest.mark.parametrize("n_picked", [1, 2, 4])
def test_a_value_is_the_mean_of_the_experts_that_the_gate_picked(n_picked: int) -> None:
    torch.manual_seed(0)
    decoder = ExpertDecoder(6, 5, n_experts=4, n_picked=n_picked)
    states = torch.randn(3, 7, 6)
    values, probability = decoder(states)
    assert probability is None
    gate, experts = decoder.gate(states).softmax(-1), decoder.expert_values(states)
    for cell, gene in np.ndindex(3, 7):
        picked = gate[cell, gene].argsort(descending=True)[:n_picked]
        weights = gate[cell, gene, picked] / gate[cell, gene, picked].sum()
        torch.testing.assert_close(values[cell, gene], (weights * experts[cell, gene, picked]).sum())


def test_only_picked_experts_learn() -> None:
    torch.manual_seed(0)
    decoder = ExpertDecoder(6, 5, n_experts=4, n_picked=2)
    states = torch.randn(1, 1, 6)
    picked = set(decoder.gate(states)[0, 0].topk(2).indices.tolist())
    decoder(states)[0].sum().backward()
    assert {number for number, expert in enumerate(decoder.experts) if expert.value[0].weight.grad.any()} == picked


# ----------------------------------------------------------------------------------------------------------- neighbours


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12, unique=True),
    n_neighbours=st.integers(1, 4),
    n_slides=st.integers(1, 3),
)
def test_a_mean_is_over_the_nearest_other_cells_of_the_slide(
    places: list[tuple[int, int]], n_neighbours: int, n_slides: int
) -> None:
    coordinates = np.array(places, float) + np.linspace(0, 0.1, len(places))[:, None]
    slides = np.arange(len(places)) % n_slides
    vectors = np.random.default_rng(0).normal(size=(len(places), 3))
    found, has_any = neighbour_means(
        torch.tensor(vectors), torch.tensor(coordinates), n_neighbours, slide_index=torch.tensor(slides)
    )
    for cell in range(len(places)):
        others = [other for other in np.flatnonzero(slides == slides[cell]) if other != cell]
        assert has_any[cell] == bool(others)
        distances = np.linalg.norm(np.float32(coordinates)[others] - np.float32(coordinates)[cell], axis=1)
        nearest = np.sort(distances)[:n_neighbours]
        if len(set(np.round(distances, 4))) < len(distances):
            continue
        expected = vectors[others][np.argsort(distances)[: len(nearest)]].mean(0) if others else np.zeros(3)
        np.testing.assert_allclose(found[cell], expected)


def test_a_cell_at_the_same_place_is_a_neighbour_and_the_cell_itself_is_none() -> None:
    vectors = torch.eye(3)
    found, _ = neighbour_means(vectors, torch.tensor([[0.0, 0], [0, 0], [5, 5]]), 1)
    assert torch.equal(found[:2], vectors[[1, 0]])


@torch.no_grad()
def test_values_come_from_the_neighbours_and_not_from_the_cell_itself() -> None:
    model, given = make(), batch()
    before = model(**given).neighbour_predicted_values
    assert torch.equal(before[0].isnan(), torch.zeros_like(before[0], dtype=torch.bool))
    given["values"] = given["values"].clone()
    given["values"][1] = 7.0
    after = model(**given).neighbour_predicted_values
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


@torch.no_grad()
def test_a_cell_without_neighbours_has_no_such_values_and_no_part_in_the_loss() -> None:
    model, given = make(), batch()
    given["slide_index"] = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
    output = model(**given)
    assert output.neighbour_predicted_values[2:].isnan().all()
    masked = given["values"][:2] == model.config.mask_value
    expected = masked_mse(output.neighbour_predicted_values[:2], given["labels"][:2], masked)
    torch.testing.assert_close(output.losses["neighbour_expression"], expected)


@torch.no_grad()
def test_genes_that_were_not_measured_are_predicted_from_the_spots_around() -> None:
    model, given = make(normalize_embedding=False, num_batch_labels=0), without(batch(), "slide_index", "batch_index")
    output = model(**given)
    genes = given["input_ids"][3, 1:9]
    found = model.predict_from_neighbours(output.cell_embedding, given["coordinates"], genes)
    torch.testing.assert_close(found[3], output.neighbour_predicted_values[3, 1:9])
    fewer = model.predict_from_neighbours(output.cell_embedding, given["coordinates"], genes, n_neighbours=1)
    assert not torch.allclose(fewer, found)


@settings(max_examples=20, deadline=None)
@given(n_cells=st.integers(1, 40), size=st.integers(1, 9), n_slides=st.integers(1, 3), seed=st.integers(0, 5))
def test_patches_hold_every_cell_once_and_one_slide_each(n_cells: int, size: int, n_slides: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    slides = random.integers(0, n_slides, n_cells)
    patches = spatial_patches(random.normal(size=(n_cells, 2)), size, slides=slides, seed=seed)
    assert sorted(np.concatenate(patches).tolist()) == list(range(n_cells))
    assert max(map(len, patches)) <= size
    assert all(len(set(slides[patch])) == 1 for patch in patches)


def test_patches_are_of_cells_that_lie_together() -> None:
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
    patches = spatial_patches(grid, 16)
    spread = np.mean([grid[patch].std(0).mean() for patch in patches])
    assert spread < grid.std(0).mean() * 0.75


# --------------------------------------------------------------------------------------------------------------- losses


def test_the_loss_is_the_weighted_sum_of_all() -> None:
    output = make(ecs_weight=10, adversarial_weight=0.5, neighbour_weight=2)(**batch())
    weights = {"cell_similarity": 10, "batch": 0.5, "neighbour_expression": 2}
    assert output.losses.keys() == {"expression", "cell_expression", "class", *weights}
    torch.testing.assert_close(output.loss, sum(weights.get(name, 1) * loss for name, loss in output.losses.items()))


def test_without_places_there_is_no_neighbour_objective() -> None:
    output = make()(**without(batch(), "coordinates", "slide_index"))
    assert output.neighbour_predicted_values is None
    assert "neighbour_expression" not in output.losses


def test_genes_to_be_generated_have_the_loss() -> None:
    model, given = make(generative=True), without(batch(), "class_index")
    n_given = 20
    labels = given.pop("labels")
    parts = {name: given[name][:, :n_given] for name in ("input_ids", "values", "attention_mask")}
    further = {"generated_ids": given["input_ids"][:, n_given:], "generated_mask": given["attention_mask"][:, n_given:]}
    output = model(**{**given, **parts, **further}, labels=labels[:, n_given:])
    assert output.predicted_values.shape == parts["input_ids"].shape
    expected = masked_mse(output.generated_values, labels[:, n_given:], further["generated_mask"])
    torch.testing.assert_close(output.losses["expression"], expected)
    torch.testing.assert_close(
        output.losses["neighbour_expression"],
        masked_mse(output.neighbour_predicted_values[:, n_given:], labels[:, n_given:], further["generated_mask"]),
    )


def test_a_dense_decoder_predicts_whether_a_gene_is_expressed() -> None:
    output = make(decoder_style="dense", explicit_zero_probability=True)(**batch())
    assert {"expression_zero", "cell_expression_zero", "neighbour_expression_zero"} <= output.losses.keys()
    assert ((output.neighbour_expressed_probability >= 0) & (output.neighbour_expressed_probability <= 1)).all()


def test_training_on_patches_of_a_slide_lowers_every_loss() -> None:
    model, given = make().train(), batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        output = model(**given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append({name: loss.item() for name, loss in output.losses.items()})
    for name in ("expression", "cell_expression", "neighbour_expression"):
        assert losses[-1][name] < losses[0][name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explicit_zero_probability": True}, "no probability of being expressed"),
        ({"num_experts_per_token": 5}, "between 1 and num_experts=4"),
        ({"num_neighbours": 0}, "at least one"),
        ({"decoder_style": "sparse"}, "'experts', 'dense'"),
        ({"num_attention_heads": 7}, "no multiple"),
    ],
)
def test_configurations_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScGPTSpatialConfig(**options)


def test_what_a_model_needs_is_asked_for() -> None:
    given = batch()
    with pytest.raises(ValueError, match=r"batch_index=.*\(merfish, visium\)"):
        make(batch_names=["merfish", "visium"])(**without(given, "batch_index"))
    with pytest.raises(ValueError, match="values="):
        make()(**without(given, "values"))
    with pytest.raises(ValueError, match="generative=False"):
        make()(**given, generated_ids=given["input_ids"])
    lone = make(neighbour_decoder=False)
    with pytest.raises(ValueError, match="neighbour_decoder=False"):
        lone.predict_from_neighbours(torch.zeros(3, 16), torch.zeros(3, 2), torch.arange(4))


def test_slides_are_learned_from_in_patches(human_pbmc: anndata.AnnData) -> None:
    adata = human_pbmc[:, EXAMPLE.cells.var_names].copy()
    adata.obs = pd.DataFrame(np.random.default_rng(0).uniform(size=(adata.n_obs, 2)), adata.obs_names, ["x", "y"])
    adata.obs["slide"] = pd.Categorical(np.arange(adata.n_obs) % 2)
    named = {"slide_key": "slide", "coordinates": ("x", "y"), "empty_cells": "keep"}
    cells = EXAMPLE.tokenizer.to_dataset(adata, **named).remove_columns(["cell_id", "length"])
    model = make(num_batch_labels=0)
    for rows in spatial_patches(adata.obs[["x", "y"]], 16, slides=adata.obs["slide"]):
        given = EXAMPLE.tokenizer.pad(cells[rows.tolist()], return_tensors="pt")
        values, names = given["values"].numpy(), adata.obs_names[rows]
        hidden = mask_each(values, values != -2, probability=(0.25, 0.5), draws=CellDraws(), cell_ids=names)
        output = model(**{**given, "values": torch.from_numpy(hidden)}, labels=given["values"])
        assert output.losses["neighbour_expression"] > 0
        assert not output.neighbour_predicted_values.isnan().any()


@pytest.mark.parametrize(("n_batches", "n_parameters"), [(0, 53_434_376), (4, 55_012_360)])
def test_the_released_sizes_have_the_published_number_of_parameters(n_batches: int, n_parameters: int) -> None:
    with torch.device("meta"):
        model = ScGPTSpatialForPreTraining(ScGPTSpatialConfig(num_batch_labels=n_batches))
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


# -------------------------------------------------------------------------------------------------------------- domains


def test_a_spot_takes_the_label_of_the_spots_around_it() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    labels = np.where(grid[:, 0] < 3, "a", "b")
    speckled = labels.copy()
    speckled[6] = "b"
    assert refine_labels(speckled, grid, shape="square").tolist() == labels.tolist()
    assert refine_labels(labels, grid, shape="square").tolist() == labels.tolist()
    assert spot_distance(grid * 3) == 3
    with pytest.raises(ValueError, match="'hexagon', 'square'"):
        refine_labels(labels, grid, shape="triangle")
