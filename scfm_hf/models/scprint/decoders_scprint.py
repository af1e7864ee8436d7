"""What scPRINT reads from its states: the distribution of each gene's count, and the labels of a cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Largest logarithm of a dispersion.
_MAX_LOG_DISPERSION = 15.0


@dataclass(frozen=True)
class CountDistribution:
    """Negative binomial of each gene with additional zeros, each (n_cells, n_genes).

    Parameters
    ----------
    mean
        Mean of the counts without the additional zeros; a cell's genes share its total.
    dispersion
        Inverse dispersion.
    zero_logits
        Logits of an additional zero.
    """

    mean: Tensor
    dispersion: Tensor
    zero_logits: Tensor

    @classmethod
    def of_scores(cls, scores: Tensor, total: Tensor, attention_mask: Tensor | None = None) -> CountDistribution:
        """From three scores a gene, (n_cells, n_genes, 3), and the total that the means add up to, (n_cells,)."""
        share, dispersion, zero = scores.unbind(-1)
        if attention_mask is not None:
            share = share.masked_fill(~attention_mask.bool(), torch.finfo(share.dtype).min)
        return cls(
            mean=total[:, None] * share.softmax(-1),
            dispersion=dispersion.clamp(max=_MAX_LOG_DISPERSION).exp(),
            zero_logits=zero,
        )


class CountDecoder(nn.Module):
    """Scores of a gene's count from its state."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, size), nn.LayerNorm(size), nn.LeakyReLU(), nn.Dropout(dropout),
            nn.Linear(size, size), nn.LayerNorm(size), nn.LeakyReLU(),
        )  # fmt: skip
        self.out_proj = nn.Linear(size, 3)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, n_genes, hidden_size) -> (n_cells, n_genes, 3)."""
        return self.out_proj(self.layers(states))


class CellCountDecoder(nn.Module):
    """Scores of a gene's count from its vector and the cell's, as products of the two."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gene_query = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.out_proj = nn.Linear(size, 3 * size, bias=False)

    def forward(self, genes: Tensor, cells: Tensor) -> Tensor:
        """(n_cells, n_genes, hidden_size) and (n_cells, hidden_size) -> (n_cells, n_genes, 3)."""
        query = self.out_proj(self.norm(self.gene_query(genes)).sigmoid())
        return torch.einsum("cgkh,ch->cgk", query.unflatten(-1, (3, -1)), cells)


class ClassDecoder(nn.Module):
    """Scores of a class's leaf labels from its token."""

    def __init__(self, size: int, hidden_sizes: list[int], n_labels: int, dropout: float) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for hidden in hidden_sizes:
            modules += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout)]
            size = hidden
        self.layers = nn.Sequential(*modules)
        self.out_proj = nn.Linear(size, n_labels)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, hidden_size) -> (n_cells, n_labels)."""
        return self.out_proj(self.layers(states))
