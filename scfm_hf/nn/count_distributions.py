"""Losses of count distributions: negative binomial, and the same with additional zeros."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def negative_binomial_nll(counts: Tensor, *, mean: Tensor, dispersion: Tensor, eps: float = 1e-8) -> Tensor:
    """Negative log likelihood of counts under a negative binomial.

    Parameters
    ----------
    counts, mean, dispersion
        Float, of shapes that broadcast; the variance is ``mean + mean**2 / dispersion``.
    eps
        Added inside the logarithms, so that a mean of 0 is allowed.

    Returns
    -------
    One number an entry, float, of the broadcast shape.
    """
    return -(_log_zero(mean, dispersion, eps) + _log_ratio(counts, mean, dispersion, eps))


def zero_inflated_negative_binomial_nll(
    counts: Tensor, *, mean: Tensor, dispersion: Tensor, zero_logits: Tensor, eps: float = 1e-8
) -> Tensor:
    """Negative log likelihood of counts under a negative binomial with additional zeros.

    Parameters
    ----------
    counts, mean, dispersion, eps
        As of :func:`negative_binomial_nll`.
    zero_logits
        Logits of the probability that a count is one of the additional zeros.

    Returns
    -------
    One number an entry, float, of the broadcast shape.
    """
    log_zero = _log_zero(mean, dispersion, eps) - zero_logits
    log_counted = -softplus(-zero_logits)
    zero = softplus(log_zero) + log_counted
    positive = log_counted + log_zero + _log_ratio(counts, mean, dispersion, eps)
    return -torch.where(counts < eps, zero, positive)


def expected_count(*, mean: Tensor, zero_logits: Tensor) -> Tensor:
    """Mean of a negative binomial with additional zeros, of the shape of ``mean``."""
    return mean * torch.sigmoid(-zero_logits)


def _log_zero(mean: Tensor, dispersion: Tensor, eps: float) -> Tensor:
    """Log probability of a zero."""
    return dispersion * (torch.log(dispersion + eps) - torch.log(dispersion + mean + eps))


def _log_ratio(counts: Tensor, mean: Tensor, dispersion: Tensor, eps: float) -> Tensor:
    """Log ratio of the probability of a count to that of a zero."""
    success = torch.log(mean + eps) - torch.log(dispersion + mean + eps)
    combinations = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    return counts * success + combinations
