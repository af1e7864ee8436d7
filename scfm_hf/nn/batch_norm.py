"""Batch norm over the tokens of a batch, one a domain where there are several."""

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
    eps
        Added to the variances.
    first_cell_decides
        Use the first cell's domain for the whole batch, as scGPT's original does.
    counts_padding
        Let padding into the statistics of training, as scGPT's original does.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        n_domains: int,
        affine: bool,
        eps: float = 6.1e-5,
        first_cell_decides: bool = False,
        counts_padding: bool = False,
    ) -> None:
        super().__init__()
        self.affine, self.eps = affine, eps
        self.first_cell_decides, self.counts_padding = first_cell_decides, counts_padding
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
            If there are several domains and none is named, or one is named that does not exist.
        """
        if len(self.norms) == 1:
            domain = torch.zeros(len(states), dtype=torch.long, device=states.device)
        if domain is None:
            raise ValueError(
                f"The model has {len(self.norms)} domains: say which each cell belongs to with batch_index=."
            )
        if self.first_cell_decides:
            domain = domain[:1].expand(len(states))
        if not self.training:
            return self._by_stored_statistics(states, domain)
        if (domain < 0).any() or (domain >= len(self.norms)).any():
            raise ValueError(
                f"batch_index holds {domain.unique().tolist()}, the model has domains 0 to {len(self.norms) - 1}."
            )
        counted = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if attention_mask is not None and not self.counts_padding:
            counted = attention_mask.bool()
        # What is not counted passes unchanged: nothing attends to padding.
        normalised = states.clone()
        for number, norm in enumerate(self.norms):
            chosen = counted & (domain == number)[:, None]
            if chosen.any():
                normalised[chosen] = norm(states[chosen]).to(states.dtype)
        return normalised

    def _by_stored_statistics(self, states: Tensor, domain: Tensor) -> Tensor:
        """Each cell by the running mean and variance of its domain."""
        mean, variance = (self._stacked(name)[domain][:, None] for name in ("running_mean", "running_var"))
        normalised = (states - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            weight, bias = (self._stacked(name)[domain][:, None] for name in ("weight", "bias"))
            normalised = normalised * weight + bias
        return normalised.to(states.dtype)

    def _stacked(self, name: str) -> Tensor:
        """A tensor of all norms, (n_domains, hidden_size)."""
        return torch.stack([getattr(norm, name) for norm in self.norms])
