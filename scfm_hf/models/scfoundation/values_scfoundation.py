"""scFoundation's embedding of expression values: each is softly divided among bins whose borders are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AutoDiscretization(nn.Module):
    """Embeds a value as the mean of bin embeddings, weighted by a small network; 0 goes the same way.

    Parameters
    ----------
    hidden_size
        Width of the embedding.
    num_bins
        Number of bins.
    alpha
        Weight of the first layer beside the second.
    initializer_range
        Standard deviation of fresh vectors for mask and padding.

    References
    ----------
    Gong et al. 2023, NeurIPS, "xTrimoGene", Methods, "Auto-discretization strategy".
    """

    def __init__(self, hidden_size: int, num_bins: int, *, alpha: float, initializer_range: float) -> None:
        super().__init__()
        self.alpha, self.initializer_range = alpha, initializer_range
        self.expand = nn.Linear(1, num_bins)
        self.mix = nn.Linear(num_bins, num_bins)
        self.bins = nn.Embedding(num_bins, hidden_size)
        self.mask, self.padding = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(2))

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {name: torch.randn(len(self.mask)) * self.initializer_range for name in ("mask", "padding")}

    def weights(self, values: Tensor) -> Tensor:
        """Share of each bin, (..., num_bins), of values of any shape."""
        first = nn.functional.leaky_relu(self.expand(values[..., None].to(self.expand.weight.dtype)), 0.1)
        return (self.alpha * first + self.mix(first)).softmax(-1)

    def forward(self, values: Tensor, is_mask: Tensor | None = None, is_padding: Tensor | None = None) -> Tensor:
        """Embed.

        Parameters
        ----------
        values
            Log-normalised expression or log10 of a depth, any shape.
        is_mask, is_padding
            Where the vector of masked values, or of padding, stands instead; bool, same shape.

        Returns
        -------
        (..., hidden_size).
        """
        embedded = self.weights(values) @ self.bins.weight
        if is_mask is not None:
            embedded = torch.where(is_mask[..., None], self.mask, embedded)
        return embedded if is_padding is None else torch.where(is_padding[..., None], self.padding, embedded)
