"""Losses: worked by hand, and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.nn.losses import (
    contrastive_loss,
    elastic_cell_similarity,
    expression_losses,
    masked_bernoulli,
    masked_mse,
    masked_relative_error,
)

PREDICTED, WANTED = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[3.0, 0.0, 5.0]])
MASK = torch.tensor([[True, True, False]])


def test_masked_losses_by_hand() -> None:
    assert masked_mse(PREDICTED, WANTED, MASK).item() == pytest.approx((4 + 4) / 2)
    assert masked_relative_error(PREDICTED[:, :1], WANTED[:, :1], MASK[:, :1]).item() == pytest.approx(2 / 3, rel=1e-5)
    probability = torch.tensor([[0.5, 0.25, 0.1]])
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert masked_bernoulli(probability, WANTED, MASK).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [masked_mse, masked_bernoulli, masked_relative_error])
def test_an_empty_mask_gives_zero(loss: object) -> None:
    assert loss(PREDICTED.sigmoid(), WANTED, torch.zeros_like(MASK)).item() == 0


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_a_certain_probability_that_is_wrong_gives_a_finite_loss(certain: float) -> None:
    assert masked_bernoulli(torch.full((1, 3), certain), WANTED, MASK).isfinite()


@given(st.integers(0, 2**31), st.floats(0.1, 1))
def test_elastic_similarity_is_least_where_cells_are_far_from_the_threshold(seed: int, threshold: float) -> None:
    embeddings = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    cosine = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1).fill_diagonal_(0)
    expected = (1 - (cosine.clamp(min=0) - threshold) ** 2).mean()
    torch.testing.assert_close(elastic_cell_similarity(embeddings, threshold), expected)
    torch.testing.assert_close(elastic_cell_similarity(5 * embeddings, threshold), expected)


def test_contrast_is_low_for_matching_views_and_high_for_others() -> None:
    views = torch.eye(4)
    matching = contrastive_loss(views, views, 0.5).item()
    assert matching == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 3)))
    assert contrastive_loss(views, views.roll(1, 0), 0.5).item() > matching


def test_losses_of_all_predictions_that_there_are() -> None:
    found = expression_losses({"gene": (PREDICTED, torch.sigmoid(PREDICTED)), "cell": (None, None)}, WANTED, MASK)
    assert set(found) == {"gene", "gene_zero"}
    assert found["gene"] == masked_mse(PREDICTED, WANTED, MASK)
