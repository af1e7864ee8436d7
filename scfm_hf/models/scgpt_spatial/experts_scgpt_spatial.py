"""scGPT-spatial's decoder of expression: a mixture of small networks, of which each gene goes through a few."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scfm_hf.nn.value_decoders import ExpressionDecoder


class ExpertDecoder(nn.Module):
    """Value of each gene from its state, by the experts that a gate picks for it.

    Every expert sees every gene; the others are left out by their weight. So no load is to be balanced, and the gate
    learns from those that were picked.

    Parameters
    ----------
    n_inputs
        Width of the states, batch vectors included.
    hidden_size
        Width of the experts' hidden layers.
    n_experts, n_picked
        Experts, and how many of them a gene's value is a mean of.

    References
    ----------
    Wang et al. 2025, bioRxiv 2025.02.05.636714, "Mixture of experts decoders".
    """

    def __init__(self, n_inputs: int, hidden_size: int, *, n_experts: int, n_picked: int) -> None:
        super().__init__()
        self.n_picked = n_picked
        self.gate = nn.Linear(n_inputs, n_experts)
        self.experts = nn.ModuleList(
            ExpressionDecoder(n_inputs, hidden_size, with_probability=False) for _ in range(n_experts)
        )

    def forward(self, states: Tensor) -> tuple[Tensor, None]:
        """(n_cells, n_tokens, n_inputs) -> values, (n_cells, n_tokens); there is no probability of being expressed."""
        return (self.weights(self.gate_probabilities(states)) * self.expert_values(states)).sum(-1), None

    def gate_probabilities(self, states: Tensor) -> Tensor:
        """How well each expert fits a gene, (n_cells, n_tokens, n_experts), summing to 1."""
        return self.gate(states).softmax(-1)

    def weights(self, probabilities: Tensor) -> Tensor:
        """The same with all but the highest set to 0, summing to 1 again."""
        highest = probabilities.topk(self.n_picked, dim=-1).indices
        kept = probabilities * torch.zeros_like(probabilities).scatter(-1, highest, 1.0)
        return kept / kept.sum(-1, keepdim=True)

    def expert_values(self, states: Tensor) -> Tensor:
        """What each expert says, (n_cells, n_tokens, n_experts)."""
        return torch.stack([expert(states)[0] for expert in self.experts], -1)
