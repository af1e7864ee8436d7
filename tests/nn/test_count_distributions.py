"""Losses of count distributions, against SciPy."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import nbinom

from scfm_hf.nn.count_distributions import (
    expected_count,
    negative_binomial_nll,
    zero_inflated_negative_binomial_nll,
)

COUNTS = torch.arange(30, dtype=torch.float64)
MEAN = torch.tensor(4.5, dtype=torch.float64)
DISPERSION = torch.tensor(1.7, dtype=torch.float64)
ZERO_LOGITS = torch.tensor(-0.4, dtype=torch.float64)


def _probabilities() -> np.ndarray:
    return nbinom.pmf(COUNTS.numpy(), 1.7, 1.7 / (1.7 + 4.5))


def test_negative_binomial_is_that_of_scipy() -> None:
    loss = negative_binomial_nll(COUNTS, mean=MEAN, dispersion=DISPERSION)
    np.testing.assert_allclose(loss, -np.log(_probabilities()), atol=1e-6)


def test_additional_zeros_are_mixed_in() -> None:
    loss = zero_inflated_negative_binomial_nll(COUNTS, mean=MEAN, dispersion=DISPERSION, zero_logits=ZERO_LOGITS)
    share = 1 / (1 + np.exp(0.4))
    expected = (1 - share) * _probabilities() + share * (COUNTS.numpy() == 0)
    np.testing.assert_allclose(loss, -np.log(expected), atol=1e-6)


def test_expected_count_leaves_out_the_additional_zeros() -> None:
    share = 1 / (1 + np.exp(0.4))
    np.testing.assert_allclose(expected_count(mean=MEAN, zero_logits=ZERO_LOGITS), 4.5 * (1 - share))


def test_a_mean_of_zero_has_a_finite_loss_and_gradient() -> None:
    mean = torch.zeros(3, requires_grad=True)
    counts, ones = torch.tensor([0.0, 1.0, 7.0]), torch.ones(3)
    loss = zero_inflated_negative_binomial_nll(counts, mean=mean, dispersion=ones, zero_logits=ones).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(mean.grad).all()
