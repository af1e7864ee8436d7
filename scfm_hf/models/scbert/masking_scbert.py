"""Masked-value pretraining of scBERT: which values are hidden, and how predictions are counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_hf.tokenization.draws import Draws


def mask_values(
    values: NDArray[np.integer],
    *,
    mask_value: int,
    share: float = 0.15,
    replaced: float = 0.9,
    draws: Draws,
    cell_ids: Sequence[str | int],
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Hide values of expressed genes, as scBERT was pretrained.

    Parameters
    ----------
    values
        Bins of a batch, (n_cells, n_tokens); 0, which also stands at padding, is never hidden.
    mask_value
        ``config.mask_value``.
    share
        Part of each cell's values above 0 that is to be predicted, rounded up.
    replaced
        Probability of such a value to be replaced by the mask; the others stay.
    draws, cell_ids
        Where the choice is drawn from, one a cell; give each epoch a step of its own.

    Returns
    -------
    The values with some hidden, and labels: the true bins of those that are to be predicted, -100 elsewhere.
    """
    hidden, labels = values.copy(), np.full(values.shape, -100, np.int64)
    for row, cell_id in enumerate(cell_ids):
        candidates = np.flatnonzero((values[row] != 0) & (values[row] != mask_value))
        stream = draws.cell(cell_id)
        chosen = candidates[stream.choice(len(candidates), math.ceil(share * len(candidates)))]
        labels[row, chosen] = values[row, chosen]
        hidden[row, chosen[stream.uniform(len(chosen)) < replaced]] = mask_value
    return hidden, labels


def predicted_values(logits: Tensor) -> Tensor:
    """Most probable bin of an expressed gene, int64, (n_cells, n_tokens): neither 0 nor the mask can be true ones.

    Parameters
    ----------
    logits
        (n_cells, n_tokens, num_values).
    """
    return logits[..., 1:-1].argmax(-1) + 1


def masked_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the values to be predicted (label not -100) that are predicted right, mean over cells, scalar."""
    wanted = labels != -100
    right = (predicted_values(logits) == labels) & wanted
    return (right.sum(1) / wanted.sum(1)).mean()
