"""Losses on expression values and on cell embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scfm_hf.nn.pooling import unit_length

if TYPE_CHECKING:
    from collections.abc import Mapping


def masked_mse(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the positions of a mask, scalar; 0 if there is none.

    Parameters
    ----------
    predicted, wanted
        (n_cells, n_tokens).
    mask
        Where to compare, same shape.
    """
    weights = mask.to(predicted.dtype)
    return ((predicted - wanted).square() * weights).sum() / weights.sum().clamp(min=1)


def masked_bernoulli(probability: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log likelihood of "is expressed" (``wanted`` above 0) over the positions of a mask, scalar."""
    weights = mask.to(probability.dtype)
    eps = torch.finfo(probability.dtype).eps
    likelihood = torch.where(wanted > 0, probability, 1 - probability).clamp(min=eps).log()
    return -(likelihood * weights).sum() / weights.sum().clamp(min=1)


def expression_losses(
    predictions: Mapping[str, tuple[Tensor | None, ...]], wanted: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Masked losses of all predictions that there are.

    Parameters
    ----------
    predictions
        Name -> values, and probabilities of being expressed, (n_cells, n_tokens) each, or None.
    wanted, mask
        Expression, and where to compare, same shape.

    Returns
    -------
    Squared errors by name, and the losses of the probabilities by ``<name>_zero``.
    """
    found: dict[str, Tensor] = {}
    for name, (values, probability) in predictions.items():
        if values is not None:
            found[name] = masked_mse(values, wanted, mask)
        if probability is not None:
            found[f"{name}_zero"] = masked_bernoulli(probability, wanted, mask)
    return found


def masked_relative_error(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean of |predicted - wanted| / (wanted + 1e-6) over the positions of a mask, scalar; a metric, not a loss."""
    weights = mask.to(predicted.dtype)
    return ((predicted - wanted).abs() / (wanted + 1e-6) * weights).sum() / weights.sum().clamp(min=1)


def elastic_cell_similarity(embeddings: Tensor, threshold: float) -> Tensor:
    """Push the cosine similarity of each pair of cells away from a threshold, scalar.

    mean over all pairs of 1 - (relu(cosine) - threshold)^2, the similarity of a cell with itself taken as 0.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Elastic cell similarity".
    """
    unit = unit_length(embeddings)
    similarity = unit @ unit.T
    similarity = similarity.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), 0).relu()
    return (1 - (similarity - threshold).square()).mean()


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Tell which of the second views belongs to each cell, scalar (SimCSE; Gao et al. 2021)."""
    similarity = unit_length(first) @ unit_length(second).T
    return nn.functional.cross_entropy(similarity / temperature, torch.arange(len(first), device=first.device))
