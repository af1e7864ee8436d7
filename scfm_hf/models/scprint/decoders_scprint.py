"""What scPRINT reads from its states: the distribution of each gene's count, and the labels of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    """Scores of a gene's count from its state, and from the depth of the cell where that is no token."""

    def __init__(self, size: int, *, dropout: float, takes_depth: bool) -> None:
        super().__init__()
        self.takes_depth = takes_depth
        self.layers = nn.Sequential(
            nn.Linear(size + takes_depth, size), nn.LayerNorm(size), nn.LeakyReLU(), nn.Dropout(dropout),
            nn.Linear(size, size), nn.LayerNorm(size), nn.LeakyReLU(),
        )  # fmt: skip
        self.output = nn.Linear(size, 3)

    def forward(self, states: Tensor, depth: Tensor) -> Tensor:
        """(n_cells, n_genes, hidden_size) and (n_cells,) -> (n_cells, n_genes, 3)."""
        if self.takes_depth:
            feature = torch.log2(1 + depth.to(states.dtype))[:, None, None].expand(-1, states.shape[1], -1)
            states = torch.cat([states, feature], -1)
        return self.output(self.layers(states))


class CellCountDecoder(nn.Module):
    """Scores of a gene's count from its vector and the cell's, as products of the two."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gene_query = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.output = nn.Linear(size, 3 * size, bias=False)

    def forward(self, genes: Tensor, cells: Tensor) -> Tensor:
        """(n_cells, n_genes, hidden_size) and (n_cells, hidden_size) -> (n_cells, n_genes, 3)."""
        query = self.output(self.norm(self.gene_query(genes)).sigmoid())
        return torch.einsum("cgkh,ch->cgk", query.unflatten(-1, (3, -1)), cells)


class LabelDecoder(nn.Module):
    """Scores of labels from a vector: [linear, norm, activation, dropout] a hidden layer, then linear.

    Parameters
    ----------
    size, hidden_sizes, n_labels
        Widths.
    dropout
        After each hidden layer; None: there is no dropout layer.
    activation
        ``nn.ReLU`` of the heads of classes, ``nn.LeakyReLU`` of the head of batches.
    """

    #: Bias of fresh scores: labels are rare.
    initial_bias = -0.13

    def __init__(
        self,
        size: int,
        hidden_sizes: Sequence[int],
        n_labels: int,
        *,
        dropout: float | None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for hidden in hidden_sizes:
            modules += [nn.Linear(size, hidden), nn.LayerNorm(hidden), activation()]
            modules += [] if dropout is None else [nn.Dropout(dropout)]
            size = hidden
        self.layers = nn.Sequential(*modules)
        self.output = nn.Linear(size, n_labels)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n_cells, hidden_size) -> (n_cells, n_labels)."""
        return self.output(self.layers(vectors))


class ClassDecoders(nn.Module):
    """Scores of the leaf labels of each class from its token; one module, so that an adapter keeps it whole."""

    def __init__(self, size: int, hidden_sizes: Sequence[int], n_labels: Mapping[str, int], *, dropout: float) -> None:
        super().__init__()
        self.of_class = nn.ModuleDict(
            {name: LabelDecoder(size, hidden_sizes, number, dropout=dropout) for name, number in n_labels.items()}
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(n_cells, n_classes, hidden_size) -> (n_cells, n_labels) a class."""
        return tuple(decoder(tokens[:, place]) for place, decoder in enumerate(self.of_class.values()))


class Bottleneck(nn.Module):
    """Squeezes a vector to a few numbers of two levels, -1 and 0 (finite scalar quantisation), and back.

    References
    ----------
    Mentzer et al. 2024, ICLR, "Finite scalar quantization: VQ-VAE made simple".
    """

    def __init__(self, size: int, n_numbers: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(size, n_numbers)
        self.project_out = nn.Linear(n_numbers, size)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., hidden_size) -> the same; rounding lets gradients pass."""
        # Half of the two levels, less a little so that the bounds are never reached.
        half = 0.5 * (1 - 1e-3)
        shift = torch.tan(torch.tensor(0.5 / half, dtype=torch.float32)).to(vectors.dtype)
        bounded = (self.project_in(vectors) + shift).tanh() * half - 0.5
        rounded = bounded + (bounded.round() - bounded).detach()
        return self.project_out(rounded)
