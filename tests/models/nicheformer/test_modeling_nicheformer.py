"""Nicheformer's pooling, heads, masks and neighbour counts beyond what every family is tested for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models.examples import Case, example_of

from scfm_hf.models.nicheformer.masking_nicheformer import mask_tokens
from scfm_hf.models.nicheformer.niches_nicheformer import niche_compositions
from scfm_hf.tokenization.draws import CellDraws

EXAMPLE = example_of("nicheformer")
ENCODER = Case(EXAMPLE, "NicheformerModel")
NICHES = Case(EXAMPLE, "NicheformerForSequenceClassification")


# -------------------------------------------------------------------------------------------------------------- pooling


@torch.no_grad()
def test_the_mean_is_over_genes_and_takes_the_context_along_on_request() -> None:
    batch = ENCODER.inputs()
    real, is_gene = batch["attention_mask"].bool(), batch["input_ids"] >= 30
    for pool_context, counted in ((False, real & is_gene), (True, real)):
        found = ENCODER.model(pool_context=pool_context)(**batch)
        expected = torch.stack([states[mask].mean(0) for states, mask in zip(found[0], counted, strict=True)])
        assert torch.allclose(found.cell_embedding, expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("pool_context", [False, True])
def test_the_padded_mean_is_over_the_whole_context_however_the_batch_is_padded(pool_context: bool) -> None:
    model, batch = ENCODER.model(pooling="padded_mean", pool_context=pool_context), ENCODER.inputs()
    missing = model.config.max_position_embeddings - batch["input_ids"].shape[1]
    full = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, missing), value=model.config.pad_token_id),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, missing)),
    }
    found, expected = model(**batch), model(**full)
    assert missing > 0
    assert torch.allclose(found.cell_embedding, expected.cell_embedding, atol=1e-6)
    begin = 0 if pool_context else 3
    assert torch.allclose(expected.cell_embedding, expected.last_hidden_state[:, begin:].mean(1), atol=1e-6)
    assert found.last_hidden_state.shape[1] == batch["input_ids"].shape[1]


@torch.no_grad()
def test_sinusoidal_positions_are_computed_and_not_stored() -> None:
    model = ENCODER.model(position_type="sinusoidal")
    assert not [name for name in model.state_dict() if "position" in name or "sinusoid" in name]
    positions = model.embeddings.sinusoids.double().numpy()
    width = positions.shape[1]
    place, pair = np.arange(len(positions))[:, None], np.arange(width // 2)
    angles = place / 10_000 ** (2 * pair / width)
    assert np.abs(positions[:, 0::2] - np.sin(angles)).max() < 1e-5
    assert np.abs(positions[:, 1::2] - np.cos(angles)).max() < 1e-5


# ---------------------------------------------------------------------------------------------------------------- heads


def niche_model(**options: Any) -> Any:
    return NICHES.model(**options)


@torch.no_grad()
@pytest.mark.parametrize("combination", ["mean", "sum", "concat"])
@pytest.mark.parametrize("dense", [False, True])
def test_the_head_sees_the_layers_that_are_named(combination: str, dense: bool) -> None:
    layers = {"feature_layers": [0, 2], "feature_combination": combination, "classifier_dense": dense}
    model, batch = niche_model(**layers), NICHES.inputs()
    found = model(**batch, output_hidden_states=True)
    pooled = []
    for layer in (0, 2):
        with model.embedding_options(embedding_layer=layer):
            pooled.append(model(**batch).cell_embedding)
    expected = {"mean": sum(pooled) / 2, "sum": sum(pooled), "concat": torch.cat(pooled, 1)}[combination]
    assert torch.allclose(found.representation, expected, atol=1e-5)
    assert torch.allclose(found.logits, model.classifier(expected), atol=1e-5)


def test_classes_of_each_cell_type_are_told_apart() -> None:
    model = niche_model(supervised_task="niche_multiclass_classification", num_cell_types=3, num_labels=4)
    counts = torch.arange(24).reshape(8, 3) % 4
    found = model(**NICHES.inputs(), labels=counts)
    assert found.logits.shape == (8, 4, 3)
    each = [torch.nn.functional.cross_entropy(found.logits[:, :, kind], counts[:, kind]) for kind in range(3)]
    assert torch.allclose(found.loss, sum(each) / 3)
    without = niche_model(
        supervised_task="niche_multiclass_classification", num_cell_types=3, num_labels=4, ignore_zeros=True
    )(**NICHES.inputs(), labels=counts)
    counted = counts != 0
    wanted = torch.nn.functional.cross_entropy(found.logits.transpose(1, 2)[counted], counts[counted])
    assert torch.allclose(without.loss, wanted)


def test_compositions_are_regressed_as_numbers_or_shares() -> None:
    counts, batch = torch.arange(32).reshape(8, 4).float(), NICHES.inputs()
    numbers = niche_model(supervised_task="niche_regression", num_labels=4)(**batch, labels=counts)
    assert torch.allclose(numbers.loss, (numbers.logits - counts).square().mean())
    options = {"supervised_task": "niche_regression", "num_labels": 4, "regress_distribution": True}
    shares = niche_model(**options)(**batch, labels=counts)
    assert torch.allclose(shares.logits.sum(1), torch.ones(8))
    assert torch.allclose(shares.loss, (shares.logits - counts / counts.sum(1, keepdim=True)).square().mean())
    softmax = niche_model(**options, label_distribution="softmax")(**batch, labels=counts)
    assert torch.allclose(softmax.loss, (softmax.logits - counts.softmax(1)).square().mean())


def test_densities_are_given_or_summed_from_neighbours() -> None:
    model, batch = niche_model(supervised_task="density_regression", num_labels=1), NICHES.inputs()
    counts = torch.arange(32).reshape(8, 4)
    summed, given = (model(**batch, labels=labels).loss for labels in (counts, counts.sum(1).float()))
    assert torch.equal(summed, given)
    with pytest.raises(ValueError, match="density_regression predicts one number"):
        niche_model(supervised_task="density_regression", num_labels=2)


@pytest.mark.parametrize(
    "option",
    [
        {"supervised_task": "niche_binary_classification"},
        {"position_type": "rotary"},
        {"feature_combination": "max"},
        {"feature_layers": [3]},
        {"feature_layers": []},
        {"hidden_size": 15},
    ],
)
def test_configurations_that_cannot_be_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        NICHES.config(**option)


# ---------------------------------------------------------------------------------------------------------------- masks


def test_a_masked_cell_depends_on_itself_alone() -> None:
    batch, config = ENCODER.inputs(), ENCODER.config()
    draws, names = CellDraws(3, step="mask/0"), [f"cell {row}" for row in range(8)]
    maskable = batch["input_ids"] >= 30
    hidden, labels = mask_tokens(batch["input_ids"], maskable, config, draws=draws, cell_ids=names)
    alone = mask_tokens(batch["input_ids"][4:5, :20], maskable[4:5, :20], config, draws=draws, cell_ids=names[4:5])
    assert torch.equal(alone[0], hidden[4:5, :20])
    assert torch.equal(alone[1], labels[4:5, :20])


def test_tokens_are_hidden_in_the_published_shares() -> None:
    config = ENCODER.config(vocab_size=10_000)
    ids = torch.randint(30, 10_000, (50, 1000), generator=torch.Generator().manual_seed(0))
    maskable = torch.ones_like(ids).bool()
    maskable[:, :3] = False
    hidden, labels = mask_tokens(ids, maskable, config, draws=CellDraws(0), cell_ids=range(50))
    chosen = labels != -100
    assert not chosen[:, :3].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    shares = {
        "chosen": chosen[:, 3:].float().mean(),
        "masked": (hidden[chosen] == config.mask_token_id).float().mean(),
        "kept": (hidden[chosen] == ids[chosen]).float().mean(),
    }
    for name, expected in (("chosen", 0.15), ("masked", 0.81), ("kept", 0.09)):
        assert abs(float(shares[name]) - expected) < 0.015, name
    assert hidden.min() >= 0
    assert hidden.max() < 10_000


# ----------------------------------------------------------------------------------------------------------- neighbours


def test_neighbours_are_counted_by_type_within_a_section() -> None:
    random = np.random.default_rng(0)
    places, types, sections = random.uniform(0, 10, (60, 2)), random.integers(0, 4, 60), random.integers(0, 2, 60)
    found = niche_compositions(places, types, radius=2.5, sections=sections)
    expected = np.zeros((60, 4), int)
    for one in range(60):
        for other in range(60):
            near = np.linalg.norm(places[one] - places[other]) <= 2.5
            if one != other and near and sections[one] == sections[other]:
                expected[one, types[other]] += 1
    assert (found == expected).all()
    assert (niche_compositions(places, types, radius=0.0) == 0).all()


def test_cells_without_a_type_or_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 cells have no type \(first: row 1\)"):
        niche_compositions(np.zeros((2, 2)), [0, -1], radius=1)
    with pytest.raises(ValueError, match="3 coordinates, 2 types and 2 sections"):
        niche_compositions(np.zeros((3, 2)), [0, 1], radius=1)
