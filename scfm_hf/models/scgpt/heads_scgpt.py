"""scGPT's decoders: expression at each gene's state, and expression predicted from the cell embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig


def _perceptron(n_inputs: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_inputs, hidden_size),
        nn.LeakyReLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.LeakyReLU(),
        nn.Linear(hidden_size, 1),
    )


class ExpressionDecoder(nn.Module):
    """Value of each gene from its state, and the probability that it is expressed at all.

    Parameters
    ----------
    config
        Of the model.
    n_inputs
        Width of the states, batch and modality vectors included.
    """

    def __init__(self, config: ScGPTConfig, n_inputs: int, *, with_probability: bool) -> None:
        super().__init__()
        self.value = _perceptron(n_inputs, config.hidden_size)
        self.expressed = _perceptron(n_inputs, config.hidden_size) if with_probability else None

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """(n_cells, n_tokens, n_inputs) -> values and probabilities, (n_cells, n_tokens) each."""
        values = self.value(states).squeeze(-1)
        return values, None if self.expressed is None else self.expressed(states).squeeze(-1).sigmoid()


class AffineExpressionDecoder(nn.Module):
    """Coefficient x input value + bias, both decoded from a gene's state: a perturbed value from an unperturbed one."""

    def __init__(self, config: ScGPTConfig, n_inputs: int, *, with_probability: bool) -> None:
        super().__init__()
        self.adaptive_bias = config.decoder_adaptive_bias
        self.activation = ACT2FN[config.decoder_activation] if config.decoder_activation else nn.Identity()
        self.coefficient = ExpressionDecoder(config, n_inputs, with_probability=with_probability)
        self.bias = ExpressionDecoder(config, n_inputs, with_probability=False)

    def forward(self, states: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """States, (n_cells, n_tokens, n_inputs), and input values -> values and probabilities, (n_cells, n_tokens) each."""
        coefficient, probability = self.coefficient(states)
        coefficient, bias = self.activation(coefficient), self.activation(self.bias(states)[0])
        if self.adaptive_bias:
            n_expressed = (values != 0).sum(1, keepdim=True).clamp(min=1)
            bias = bias * values.sum(1, keepdim=True) / n_expressed
        return coefficient * values + bias, probability


class CellConditionedDecoder(nn.Module):
    """Value of a gene from its query and the cell embedding ("MVC", gene expression prediction for cell modelling).

    Parameters
    ----------
    config
        Of the model; ``mvc_style`` says how query and cell meet.
    n_gene, n_cell
        Widths of the gene and cell vectors, batch and modality vectors included.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Gene expression prediction for cell modelling".
    """

    def __init__(self, config: ScGPTConfig, n_gene: int, n_cell: int, *, with_probability: bool) -> None:
        super().__init__()
        self.style = config.mvc_style or ""
        width = 64
        n_query = {"concat query": width, "sum query": n_cell}.get(self.style, n_gene)
        self.gene_query = nn.Linear(n_gene, n_query)
        inner = self.style.startswith("inner product")
        if inner:
            self.weight = nn.Linear(n_query, n_cell, bias=False)
            self.expressed_weight = nn.Linear(n_query, n_cell) if with_probability else None
        else:
            if with_probability:
                raise ValueError(f"mvc_style={self.style!r} has no probability of being expressed; take 'inner product'.")
            self.hidden = nn.Linear(n_cell + width if self.style == "concat query" else n_cell, width)
            self.activation = nn.PReLU()
            self.out_proj = nn.Linear(width, 1)

    def forward(self, cells: Tensor, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cells, (n_cells, n_cell), and genes, (n_cells, n_tokens, n_gene) -> values and probabilities, (n_cells, n_tokens)."""
        if self.style == "inner product, detach":
            genes = genes.detach()
        if self.style.startswith("inner product"):
            query, cells = self.gene_query(genes).sigmoid(), cells.unsqueeze(2)
            values = torch.bmm(self.weight(query), cells).squeeze(2)
            if self.expressed_weight is None:
                return values, None
            return values, torch.bmm(self.expressed_weight(query), cells).squeeze(2).sigmoid()
        query, cells = self.gene_query(genes).sigmoid(), cells.unsqueeze(1)
        if self.style == "concat query":
            query = torch.cat([cells.expand(-1, query.shape[1], -1), query], -1)
        else:
            query = cells + query
        return self.out_proj(self.activation(self.hidden(query))).squeeze(-1), None
