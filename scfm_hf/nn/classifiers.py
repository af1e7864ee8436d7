"""Heads that label a vector, and the gradient reversal that makes one adversarial."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassifierLayer(nn.Linear):
    """A linear layer whose weights begin as torch makes them: transformers' small ones let nothing through several."""

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        bound = self.in_features**-0.5
        weight = torch.empty(self.out_features, self.in_features).uniform_(-bound, bound)
        return {"weight": weight, "bias": torch.zeros(self.out_features)}


class FirstTokenClassifier(nn.Module):
    """Dense layer and tanh on the first token (BERT's pooler), dropout, linear layer.

    The pooler stands in here, and not in the body, so that an adapter trains and saves the whole head.

    Parameters
    ----------
    hidden_size, num_labels, dropout
        As the names say.
    """

    def __init__(self, hidden_size: int, num_labels: int, *, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> (n_cells, num_labels)."""
        return self.out_proj(self.dropout(torch.tanh(self.dense(states[:, 0]))))


class DeepClassifier(nn.Module):
    """(Linear, activation, LayerNorm) x (n_layers - 1), then Linear.

    Parameters
    ----------
    hidden_size, num_labels, n_layers
        Sizes; ``n_layers`` counts all linear layers.
    activation
        Between linear layer and layer norm.
    """

    def __init__(
        self, hidden_size: int, num_labels: int, *, n_layers: int = 3, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.activation = activation or nn.ReLU()
        self.linears = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(n_layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(n_layers - 1))
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., hidden_size) -> (..., num_labels)."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            vectors = norm(self.activation(linear(vectors)))
        return self.out_proj(vectors)


def reverse_gradient(values: Tensor, strength: float = 1.0) -> Tensor:
    """The values unchanged; what stands before them is trained against what stands behind (Ganin & Lempitsky 2015)."""
    fixed = values.detach()
    return fixed - strength * (values - fixed)
