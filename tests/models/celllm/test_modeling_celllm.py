"""CellLM's parts: one token for all padding, both released classifiers, drugs as graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models.examples import Case, example_of
from torch import nn

from scfm_hf.models.celllm.drugs_celllm import GraphLayer, pad_drugs
from scfm_hf.models.celllm.modeling_celllm import class_weights

EXAMPLE = example_of("celllm")
ENCODER = Case(EXAMPLE, "CellLMModel")
CLASSIFIER = Case(EXAMPLE, "CellLMForSequenceClassification")
RESPONSE = Case(EXAMPLE, "CellLMForDrugResponse")


def padded_to_the_context(batch: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    short = config.max_position_embeddings - batch["input_ids"].shape[1]
    fillings = {"input_ids": config.pad_token_id, "values": config.pad_value_id, "attention_mask": 0}
    return {name: nn.functional.pad(batch[name], (0, short), value=filling) for name, filling in fillings.items()}


# -------------------------------------------------------------------------------------------------------------- padding


@torch.no_grad()
def test_one_token_stands_for_all_padding_of_the_context() -> None:
    model, batch = ENCODER.model(), ENCODER.inputs()
    found = model(**batch, output_hidden_states=True)
    whole = padded_to_the_context(batch, model.config)
    states = model.embeddings(whole["input_ids"], whole["values"])
    for number, layer in enumerate(model.layers, start=1):
        # No counts: each token of padding is a key of its own, as in the original.
        states = layer(states, whole["attention_mask"])
        if number < len(model.layers):
            shown = states[:, : batch["input_ids"].shape[1]]
            assert torch.allclose(found.hidden_states[number], shown, atol=1e-5)
    last = model.norm(states) * whole["attention_mask"][..., None]
    assert torch.allclose(found.last_hidden_state, last[:, : batch["input_ids"].shape[1]], atol=1e-5)


@torch.no_grad()
def test_padding_takes_its_share_unless_keys_are_masked() -> None:
    batch = ENCODER.inputs()
    given = [
        [ENCODER.model(mask_keys=masked, max_position_embeddings=length)(**batch).cell_embedding for length in (80, 90)]
        for masked in (False, True)
    ]
    assert (given[0][0] - given[0][1]).abs().max() > 1e-3
    assert torch.allclose(*given[1], atol=1e-6)


@torch.no_grad()
def test_the_originals_maximum_makes_a_cell_depend_on_its_batch() -> None:
    batch = ENCODER.inputs()
    for maximum, limit in (("cell", 1e-5), ("batch", None)):
        model = ENCODER.model(key_maximum=maximum)
        apart = torch.cat([model(**ENCODER.inputs([row])).cell_embedding for row in range(8)])
        difference = (model(**batch).cell_embedding - apart).abs().max()
        assert difference <= limit if limit else difference > 1e-5


@torch.no_grad()
def test_attentions_are_shares_of_the_real_tokens_or_as_the_original_gives_them() -> None:
    batch = ENCODER.inputs()
    real = batch["attention_mask"].bool()
    original = ENCODER.model(attentions_as_original=True)(**batch, output_attentions=True)
    n_missing = 80 - batch["input_ids"].shape[1]
    for probabilities in original.attentions:
        # One more column would stand for each token of padding that the batch does not hold.
        of_padding = probabilities[0, :, :, -1:] * n_missing
        assert not real[0, -1]
        assert torch.allclose(probabilities[0].sum(-1, keepdim=True) + of_padding, torch.ones(1), atol=1e-5)
    assert original.last_hidden_state[~real].abs().max() > 0
    assert ENCODER.model()(**batch).last_hidden_state[~real].abs().max() == 0


def test_frozen_gene_embeddings_stay_frozen_after_loading(tmp_path: Any) -> None:
    ENCODER.model().save_pretrained(tmp_path)
    model = ENCODER.model_class.from_pretrained(tmp_path)
    assert not model.get_input_embeddings().weight.requires_grad
    assert model.embeddings.values.weight.requires_grad
    thawed = ENCODER.model_class.from_pretrained(tmp_path, freeze_gene_embeddings=False)
    assert thawed.get_input_embeddings().weight.requires_grad


def test_random_features_are_drawn_anew_only_when_asked() -> None:
    for interval, changes in ((None, False), (2, True)):
        model = ENCODER.model(feature_redraw_interval=interval)
        before = model.layers[0].self_attn.projection.clone()
        for mode in (False, True):
            model.train(mode)
            for _ in range(2):
                model(**ENCODER.inputs())
        assert torch.equal(model.layers[0].self_attn.projection, before) != changes


# ---------------------------------------------------------------------------------------------------------- classifiers


@torch.no_grad()
def test_a_gene_has_its_own_place_or_that_in_the_cell() -> None:
    for kind in ("scatter", "positional"):
        model, batch = CLASSIFIER.model(classifier_type=kind), CLASSIFIER.inputs()
        states = model.celllm(**batch).last_hidden_state
        scores = model.classifier.scores
        found = scores(states, batch["input_ids"], batch["attention_mask"])
        each = scores.linear(states).squeeze(-1)
        expected = torch.zeros(8, 129) if kind == "scatter" else torch.full((8, 80), float(scores.linear.bias))
        for cell in range(8):
            for token in range(each.shape[1]):
                if batch["attention_mask"][cell, token]:
                    place = int(batch["input_ids"][cell, token]) if kind == "scatter" else token
                    expected[cell, place] = each[cell, token]
        assert torch.allclose(found, expected)


@torch.no_grad()
def test_genes_in_another_order_give_the_same_class_by_scatter_alone() -> None:
    for kind, same in (("scatter", True), ("positional", False)):
        model, batch = CLASSIFIER.model(classifier_type=kind), CLASSIFIER.inputs([3])
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(batch["input_ids"].shape[1] - 1)])
        found = model(**{name: values[:, order] for name, values in batch.items()}).logits
        assert torch.allclose(found, model(**batch).logits, atol=1e-5) == same


def test_classes_are_weighted_by_how_rare_they_are() -> None:
    assert class_weights([8, 2]) == pytest.approx([0.04, 0.64])
    batch = {**CLASSIFIER.inputs(), "labels": torch.arange(8) % 2}
    weighted = CLASSIFIER.model(class_weights=[0.04, 0.64])(**batch)
    expected = nn.functional.cross_entropy(weighted.logits, batch["labels"], torch.tensor([0.04, 0.64]))
    assert torch.allclose(weighted.loss, expected)


def test_a_head_by_genes_asks_for_the_genes() -> None:
    model, batch = CLASSIFIER.model(), CLASSIFIER.inputs()
    vectors = model.get_input_embeddings()(batch["input_ids"])
    both = model(**batch, inputs_embeds=vectors)
    assert torch.equal(both.logits, model(**batch).logits)
    batch.pop("input_ids")
    with pytest.raises(ValueError, match="pass input_ids= too"):
        model(**batch, inputs_embeds=vectors)


# ---------------------------------------------------------------------------------------------------------------- drugs


@torch.no_grad()
def test_an_atom_sees_itself_and_its_neighbours() -> None:
    torch.manual_seed(0)
    layer, atoms = GraphLayer(5, 7).eval(), torch.randn(4, 5)
    bonds = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1], [1, 3], [3, 1]])
    adjacency = torch.zeros(4, 4)
    adjacency[bonds[:, 0], bonds[:, 1]] = 1
    expected = layer.linear2(layer.linear1(atoms + adjacency @ atoms).relu()).relu() / (1 + 1e-5) ** 0.5
    found = layer(atoms[None], bonds[None], torch.ones(1, 4))
    assert torch.allclose(found[0], expected, atol=1e-6)


@torch.no_grad()
def test_a_drug_is_the_same_beside_a_larger_one() -> None:
    random = np.random.default_rng(0)
    ring = np.array([[one, (one + 1) % 5] for one in range(5)])
    small = (random.normal(size=(1, 6)).astype(np.float32), np.empty((0, 2), np.int64))
    large = (random.normal(size=(5, 6)).astype(np.float32), np.concatenate([ring, ring[:, ::-1]]))
    head = RESPONSE.model().drug_response
    together = head.embed_drugs(**pad_drugs([small, large]))
    apart = torch.cat([head.embed_drugs(**pad_drugs([drug])) for drug in (small, large)])
    assert torch.allclose(together, apart, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_a_response_is_a_number_or_sensitive_or_not() -> None:
    batch, labels = RESPONSE.inputs(), torch.arange(8) % 2
    numbers = RESPONSE.model()(**batch, labels=labels)
    assert torch.allclose(numbers.loss, (numbers.logits[:, 0] - labels).square().mean())
    classes = RESPONSE.model(response_type="classification")(**batch, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(classes.logits[:, 0], labels.float())
    assert torch.allclose(classes.loss, expected)
    with pytest.raises(ValueError, match="Give the drug of each pair"):
        RESPONSE.model()(**ENCODER.inputs())


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "option",
    [
        {"classifier_type": "pooled"},
        {"response_type": "ranking"},
        {"pad_token_id": 3},
        {"vocab_size": 12},
        {"mask_value_id": 8},
        {"cells_per_chunk": 0},
        {"pooling": "last"},
    ],
)
def test_configurations_that_cannot_be_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        ENCODER.config(**option)


def test_inputs_that_are_missing_or_too_long_are_named() -> None:
    model, batch = ENCODER.model(), ENCODER.inputs()
    with pytest.raises(ValueError, match="pass values="):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="as input_ids= or as inputs_embeds="):
        model(values=batch["values"])
    with pytest.raises(ValueError, match="81 tokens, the model's context is 80"):
        model(torch.zeros(1, 81, dtype=torch.long), torch.zeros(1, 81, dtype=torch.long))
