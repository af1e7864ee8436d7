"""From the states of a cell's tokens to one vector a cell."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens where the mask is set.

    Parameters
    ----------
    states
        Float, (n_cells, n_tokens, hidden_size).
    mask
        Bool, or integer with 1 = counts, (n_cells, n_tokens).

    Returns
    -------
    Float, (n_cells, hidden_size); zeros for a cell without a token.
    """
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def without_specials(mask: Tensor, input_ids: Tensor, special_ids: tuple[int, ...]) -> Tensor:
    """The mask with the positions of special tokens taken out, bool, (n_cells, n_tokens)."""
    mask = mask.bool()
    if special_ids:
        mask = mask & ~torch.isin(input_ids, torch.tensor(special_ids, device=input_ids.device))
    return mask
