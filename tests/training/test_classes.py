"""Class weights, balanced sets, freezing and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import EvalPrediction

from scfm_hf.models.registry import families
from scfm_hf.training import balance_classes, class_weights, classification_metrics, freeze, weighted_loss


def labelled(numbers: list[int]) -> Dataset:
    dataset = Dataset.from_dict({"labels": numbers, "place": list(range(len(numbers)))})
    return dataset.cast_column("labels", ClassLabel(names=["a", "b", "c"]))


numbers = st.lists(st.integers(0, 2), min_size=1, max_size=60)


@given(numbers)
def test_weights_have_mean_one_over_the_cells_and_make_classes_equal(values: list[int]) -> None:
    weights = class_weights(labelled(values)).numpy()
    of_cells = weights[values]
    assert of_cells.mean() == pytest.approx(1, rel=1e-5)
    sums = [of_cells[np.array(values) == number].sum() for number in set(values)]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-5)


@given(numbers)
def test_balanced_set_has_every_class_equally_often_and_repeats_only_where_it_must(values: list[int]) -> None:
    balanced = balance_classes(labelled(values), seed=1)
    assert len(balanced) == len(values)
    counts = np.bincount(balanced["labels"])
    present = counts[counts > 0]
    assert present.max() - present.min() <= len(set(values))
    times = np.bincount(balanced["place"], minlength=len(values))
    for number in set(values):
        of_class = times[np.array(values) == number]
        assert of_class.max() - of_class.min() <= 2


def test_balancing_is_reproducible() -> None:
    dataset = labelled([0] * 20 + [1] * 3)
    assert balance_classes(dataset, seed=4)["place"] == balance_classes(dataset, seed=4)["place"]


def test_weighted_loss_is_cross_entropy_with_weights() -> None:
    logits, labels, weights = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, -100]), torch.tensor([1.0, 2.0, 3.0])
    expected = nn.functional.cross_entropy(logits, labels, weight=weights)
    torch.testing.assert_close(weighted_loss(weights)({"logits": logits}, labels), expected)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 3)])
def test_metrics_leave_out_what_has_no_label(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).normal(size=shape)
    labels = logits.argmax(-1)
    labels.flat[0] = -100
    found = classification_metrics(EvalPrediction(predictions=(logits, None), label_ids=labels))
    assert found == {"accuracy": 1.0, "macro_f1": 1.0}


def make_model() -> Any:
    spec = families()["geneformer"]
    return spec.load_class("GeneformerForMaskedLM")(spec.load_config_class()(**spec.tiny))


def test_freezing_stops_embeddings_and_first_layers_alone() -> None:
    model = make_model()
    frozen = set(freeze(model, embeddings=True, first_layers=1))
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all("embeddings" in name or "layer.0." in name for name in frozen)
    assert any("layer.0." in name for name in frozen)
    assert any("embeddings" in name for name in frozen)


def test_more_layers_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="layers"):
        freeze(make_model(), first_layers=9)
