"""Distributions of expression that a head may predict: squared error, negative binomial, the same with more zeros."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scfm_hf.nn.count_distributions import (
    expected_count,
    negative_binomial_nll,
    zero_inflated_negative_binomial_nll,
)

#: ``mse`` on whatever values there are, the others on counts.
Likelihood = Literal["mse", "nb", "zinb"]
LIKELIHOODS: tuple[Likelihood, ...] = ("mse", "nb", "zinb")
COUNT_LIKELIHOODS: tuple[Likelihood, ...] = ("nb", "zinb")

_OUTPUTS = {"mse": 1, "nb": 2, "zinb": 3}
#: Logarithms beyond which no count is.
_LIMIT = 15.0


def n_outputs(likelihood: Likelihood) -> int:
    """Numbers that a head gives for each gene."""
    return _OUTPUTS[likelihood]


def distribution(scores: Tensor, depth: Tensor, *, zero_inflated: bool) -> dict[str, Tensor]:
    """Parameters of a count distribution.

    Parameters
    ----------
    scores
        (n_cells, n_genes, 2 or 3): log mean for a cell whose depth is 1, log dispersion, logit of an additional zero.
    depth
        What the means are proportional to, (n_cells,).

    Returns
    -------
    ``mean``, ``dispersion`` and, with additional zeros, ``zero_logits``, float32, (n_cells, n_genes) each.
    """
    scores = scores.float()
    log_mean = scores[..., 0] + depth.float().clamp(min=1e-6).log()[:, None]
    found = {
        "mean": log_mean.clamp(-_LIMIT, _LIMIT).exp(),
        "dispersion": scores[..., 1].clamp(-_LIMIT, _LIMIT).exp(),
    }
    return {**found, "zero_logits": scores[..., 2]} if zero_inflated else found


def negative_log_likelihood(likelihood: Likelihood, scores: Tensor, wanted: Tensor, depth: Tensor) -> Tensor:
    """Loss of each gene, (n_cells, n_genes): squared error, or negative log likelihood.

    Parameters
    ----------
    likelihood
        Which.
    scores
        What the head gives, (n_cells, n_genes, n_outputs).
    wanted
        Values or counts, (n_cells, n_genes).
    depth
        See :func:`distribution`.
    """
    if likelihood == "mse":
        return (scores[..., 0].float() - wanted.float()).square()
    found = distribution(scores, depth, zero_inflated=likelihood == "zinb")
    counts, mean, dispersion = wanted.float().clamp(min=0), found["mean"], found["dispersion"]
    if likelihood == "nb":
        return negative_binomial_nll(counts, mean=mean, dispersion=dispersion)
    zero_logits = found["zero_logits"]
    return zero_inflated_negative_binomial_nll(counts, mean=mean, dispersion=dispersion, zero_logits=zero_logits)


@torch.no_grad()
def expected_values(likelihood: Likelihood, scores: Tensor, depth: Tensor) -> Tensor:
    """What a head expects of each gene, (n_cells, n_genes)."""
    if likelihood == "mse":
        return scores[..., 0].float()
    found = distribution(scores, depth, zero_inflated=likelihood == "zinb")
    if likelihood == "nb":
        return found["mean"]
    return expected_count(mean=found["mean"], zero_logits=found["zero_logits"])
