"""Layers of SCimilarity's encoder and decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from scfm_hf.models.scimilarity.configuration_scimilarity import SCimilarityConfig


class GeneSum(nn.Module):
    """The first linear layer: the sum of the genes' vectors by their values, read off expressed genes alone."""

    def __init__(self, config: SCimilarityConfig) -> None:
        super().__init__()
        self.num_genes = config.num_genes
        self.genes = nn.Embedding(config.vocab_size, config.hidden_sizes[0], padding_idx=config.pad_token_id)
        self.bias = nn.Parameter(torch.zeros(config.hidden_sizes[0]))
        self.dropout = nn.Dropout(config.input_dropout_prob)

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"bias": torch.zeros(len(self.bias))}

    def forward(self, input_ids: Tensor | None, values: Tensor, inputs_embeds: Tensor | None) -> Tensor:
        """Genes and values, (n_cells, n_tokens), or whole profiles, (n_cells, num_genes), -> (n_cells, width)."""
        table = self.genes.weight
        weights = self.dropout(values.to(table.dtype))
        if inputs_embeds is not None:
            summed = torch.einsum("cg,cgh->ch", weights, inputs_embeds)
        elif input_ids is not None:
            summed = nn.functional.embedding_bag(input_ids, table, per_sample_weights=weights, mode="sum")
        else:
            summed = weights @ table[: self.num_genes]
        return summed + self.bias


class DroppedLinear(GradientCheckpointingLayer):
    """Dropout and a linear layer: what of a layer may be computed twice (the batch norm's statistics may not)."""

    def __init__(self, in_size: int, out_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_size, out_size)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, in_size) -> (n_cells, out_size)."""
        return self.linear(self.dropout(states))


class HiddenLayer(nn.Module):
    """Dropout and linear layer, unless the genes' sum is it, then batch norm and PReLU of one shared slope.

    Parameters
    ----------
    in_size
        Width before; None: there is no linear layer.
    out_size, dropout, eps
        Width after, and what the configuration says.
    """

    def __init__(self, in_size: int | None, out_size: int, *, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = nn.Identity() if in_size is None else DroppedLinear(in_size, out_size, dropout)
        self.norm = CellBatchNorm(out_size, eps=eps)
        self.activation = nn.PReLU()

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, in_size) -> (n_cells, out_size)."""
        return self.activation(self.norm(self.dense(states)))


class CellBatchNorm(nn.BatchNorm1d):
    """Batch norm over cells that keeps to its stored statistics where those of the batch would do harm.

    That is with a single cell, which has no spread, and where the norm is frozen: an adapter does not save statistics
    that its training moved.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(n_cells, width) -> the same."""
        if self.training and (len(input) == 1 or not self.weight.requires_grad):
            mean, variance = self.running_mean, self.running_var
            return nn.functional.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)
