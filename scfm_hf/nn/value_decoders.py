"""From states to expression values: a gene's value from its own state, or from its query and the cell's embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExpressionDecoder(nn.Module):
    """Value of each gene from its state, and the probability that it is expressed at all.

    Parameters
    ----------
    n_inputs
        Width of the states, batch and modality vectors included.
    hidden_size
        Width of the two hidden layers.
    with_probability
        Whether there is a second network for the probability.
    """

    def __init__(self, n_inputs: int, hidden_size: int, *, with_probability: bool) -> None:
        super().__init__()
        self.value = _perceptron(n_inputs, hidden_size)
        self.expressed = _perceptron(n_inputs, hidden_size) if with_probability else None

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """(n_cells, n_tokens, n_inputs) -> values and probabilities, (n_cells, n_tokens) each."""
        values = self.value(states).squeeze(-1)
        return values, None if self.expressed is None else self.expressed(states).squeeze(-1).sigmoid()


class CellConditionedDecoder(nn.Module):
    """Value of a gene from its query and the cell's embedding ("MVC" or "GEPC": expression prediction for cells).

    Parameters
    ----------
    n_gene, n_cell
        Widths of the gene and cell vectors, batch and modality vectors included.
    style
        How query and cell meet: ``inner product`` (``inner product, detach``: the genes are not trained through it), or
        a small network over both, ``concat query`` or ``sum query``.
    with_probability
        Whether there is a probability of being expressed; with the inner product only.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Gene expression prediction for cell modelling".
    """

    #: Width of the concatenated query, and of the hidden layer.
    n_hidden = 64

    def __init__(self, n_gene: int, n_cell: int, *, style: str, with_probability: bool) -> None:
        super().__init__()
        self.style = style
        if style.startswith("inner product"):
            self.gene_query = nn.Linear(n_gene, n_gene)
            self.weight = nn.Linear(n_gene, n_cell, bias=False)
            self.expressed_weight = nn.Linear(n_gene, n_cell) if with_probability else None
            return
        if with_probability:
            raise ValueError(f"mvc_style={style!r} has no probability of being expressed; take 'inner product'.")
        n_query = self.n_hidden if style == "concat query" else n_cell
        self.gene_query = nn.Linear(n_gene, n_query)
        self.hidden = nn.Linear(n_cell + n_query if style == "concat query" else n_cell, self.n_hidden)
        self.activation = nn.PReLU()
        self.out_proj = nn.Linear(self.n_hidden, 1)

    def forward(self, cells: Tensor, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict every gene in every cell.

        Parameters
        ----------
        cells
            (n_cells, n_cell).
        genes
            (n_cells, n_tokens, n_gene).

        Returns
        -------
        Values and probabilities, (n_cells, n_tokens) each.
        """
        if self.style == "inner product, detach":
            genes = genes.detach()
        query = self.gene_query(genes).sigmoid()
        if self.style.startswith("inner product"):
            cells = cells.unsqueeze(2)
            values = torch.bmm(self.weight(query), cells).squeeze(2)
            if self.expressed_weight is None:
                return values, None
            return values, torch.bmm(self.expressed_weight(query), cells).squeeze(2).sigmoid()
        cells = cells.unsqueeze(1).expand(-1, query.shape[1], -1)
        joined = torch.cat([cells, query], -1) if self.style == "concat query" else cells + query
        return self.out_proj(self.activation(self.hidden(joined))).squeeze(-1), None


def draw_expressed(values: Tensor, probability: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
    """Values, set to 0 where a draw says that the gene is not expressed; all of them without a probability."""
    return values if probability is None else values * torch.bernoulli(probability, generator=generator)


def _perceptron(n_inputs: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_inputs, hidden_size),
        nn.LeakyReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.LeakyReLU(),
        nn.Linear(hidden_size, 1),
    )
