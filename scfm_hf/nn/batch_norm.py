"""Batch norm over the real tokens of a batch, one a domain where there are several."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenBatchNorm(nn.Module):
    """BatchNorm1d over (cells, tokens) that leaves padding out of its statistics.

    In evaluation each cell is normalised with the stored statistics of its own domain, whatever its neighbours are.

    Parameters
    ----------
    hidden_size
        Width of the states.
    n_domains
        Number of norms.
    affine
        Whether they have a learned scale and shift.
    first_cell_decides
        Use the first cell's domain for the whole batch, as scGPT's original does.
    """

    def __init__(
        self, hidden_size: int, *, n_domains: int, affine: bool, eps: float = 6.1e-5, first_cell_decides: bool = False
    ) -> None:
        super().__init__()
        self.first_cell_decides = first_cell_decides
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_size, eps=eps, affine=affine) for _ in range(n_domains))

    def forward(self, states: Tensor, attention_mask: Tensor | None, domain: Tensor | None) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> the same.

        Parameters
        ----------
        states
            To be normalised.
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        domain
            Domain of each cell, int64, (n_cells,); not needed where there is but one.

        Raises
        ------
        ValueError
            If there are several domains and none is named.
        """
        if len(self.norms) == 1 and domain is None:
            domain = torch.zeros(len(states), dtype=torch.long, device=states.device)
        if domain is None:
            raise ValueError(f"The model has {len(self.norms)} domains: say which each cell belongs to with batch_index=.")
        if self.first_cell_decides:
            domain = domain[:1].expand(len(states))
        real = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        real = real if attention_mask is None else attention_mask.bool()
        # Padding passes through unchanged: nothing attends to it.
        normalised = states.clone()
        for number, norm in enumerate(self.norms):
            chosen = real & (domain == number)[:, None]
            if chosen.any():
                normalised[chosen] = norm(states[chosen]).to(states.dtype)
        return normalised
