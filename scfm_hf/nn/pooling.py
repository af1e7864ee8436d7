"""From the states of a cell's tokens to one vector a cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    total = (states * weights).sum(1, dtype=_full(states)) / weights.sum(1, dtype=_full(states)).clamp(min=1)
    return total.to(states.dtype)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale vectors to length 1, same shape and dtype; zeros stay zeros, also in half precision."""
    return nn.functional.normalize(vectors.to(_full(vectors)), dim=-1).to(vectors.dtype)


def pool_tokens(
    states: Tensor, values: Tensor | None, attention_mask: Tensor | None, *, pooling: str, padding: str = "ignored"
) -> Tensor:
    """One vector a cell from the states of its genes, in one of scGPT's ways.

    Parameters
    ----------
    states
        (n_cells, n_tokens, hidden_size).
    values
        Expression of the genes, (n_cells, n_tokens); for the weighted ways alone.
    attention_mask
        1 = real token, (n_cells, n_tokens); None: all are.
    pooling
        ``cls``: the first token. ``mean``: over the tokens. ``weighted``: the sum weighted by the values, negative ones
        (masks) counted as 0, scaled to length 1; ``signed_weighted``: with the values as they are.
    padding
        What padding does to the mean and the signed sum: ``ignored``, or counted with ``zeros``, or with the ``states``
        that stand there.

    Returns
    -------
    (n_cells, hidden_size); only the weighted ones have length 1.

    Raises
    ------
    ValueError
        If a weighted way has no values.
    """
    if pooling == "cls":
        return states[:, 0]
    mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    real = mask if attention_mask is None else attention_mask.bool()
    if padding == "zeros":
        states = states * real.unsqueeze(-1)
    if pooling == "mean":
        return masked_mean(states, real if padding == "ignored" else mask)
    if values is None:
        raise ValueError(f"pooling={pooling!r} needs values.")
    weights = values.to(states.dtype)
    weights = weights.clamp(min=0) if pooling == "weighted" else weights
    weights = weights * real if padding == "ignored" else weights
    total = (states * weights.unsqueeze(-1)).sum(1, dtype=_full(states))
    return unit_length(total).to(states.dtype)


def without_specials(mask: Tensor, input_ids: Tensor, special_ids: tuple[int, ...]) -> Tensor:
    """The mask with the positions of special tokens taken out, bool, (n_cells, n_tokens)."""
    mask = mask.bool()
    if special_ids:
        mask = mask & ~torch.isin(input_ids, torch.tensor(special_ids, device=input_ids.device))
    return mask


def _full(vectors: Tensor) -> torch.dtype:
    """The dtype to sum in: the sum of a long cell's states, or the least length, does not fit into float16."""
    return torch.promote_types(vectors.dtype, torch.float32)
