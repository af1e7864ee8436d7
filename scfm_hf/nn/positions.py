"""Positions that are computed, not learned."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(n_positions: int, width: int) -> Tensor:
    """Sine in even and cosine in odd columns, (n_positions, width); Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-torch.log(torch.tensor(10_000.0)) / width))
    angles = torch.arange(n_positions).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
