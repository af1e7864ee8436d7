"""CellPLM's decoders: from a cell's latent vector to the expression of all genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scfm_hf.models.cellplm.encoders_cellplm import CellNorm, PReLUBlock

if TYPE_CHECKING:
    from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig

#: Width before the output of the negative binomial.
_WIDTH_OF_MEAN = 128

Covariates = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Number of each cell's batch, data set and platform, int64, (n_cells,) each; None where it is not known."""


class CovariateEmbedding(nn.Module):
    """Embedding of a covariate, PReLU, norm.

    Of a covariate that is not known the *sum* over all embeddings is taken, as the released weights were trained.
    """

    def __init__(self, n_values: int, size: int, *, norm_type: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_values, size)
        self.activation = nn.PReLU()
        self.norm = CellNorm(norm_type, size)

    def forward(self, values: Tensor | None) -> Tensor:
        """(n_cells,) -> (n_cells, size), or (1, size) without values."""
        if values is None:
            rows = self.embedding.weight.detach().sum(0, keepdim=True)
        else:
            rows = self.embedding(values)
        return self.norm(self.activation(rows))


class NegativeBinomialDecoder(nn.Module):
    """Mean and dispersion of a negative binomial for each gene; covariates are added after each block."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.blocks = _blocks(config, config.latent_size)
        numbers = (config.num_batches, config.num_datasets, config.num_platforms)
        self.covariates = nn.ModuleList(
            nn.ModuleList(
                CovariateEmbedding(number, width, norm_type=config.norm_type) if number else nn.Identity()
                for number in numbers
            )
            for _ in self.blocks
        )
        self.hidden = nn.Linear(width if len(self.blocks) else config.latent_size, _WIDTH_OF_MEAN)
        self.mean = nn.Linear(_WIDTH_OF_MEAN, config.num_genes)
        self.dispersion = nn.Parameter(torch.zeros(config.num_genes))

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"dispersion": torch.zeros(len(self.dispersion))}

    def forward(self, latent: Tensor, covariates: Covariates) -> tuple[Tensor, Tensor]:
        """(n_cells, latent_size) -> means, (n_cells, num_genes), and dispersions, (num_genes,), both float32."""
        states = latent
        for block, embeddings in zip(self.blocks, self.covariates, strict=True):
            states = block(states)
            for embedding, values in zip(embeddings.children(), covariates, strict=True):
                if isinstance(embedding, CovariateEmbedding):
                    states = states + embedding(values)
        # In full precision: neither the largest mean nor the loss of its counts fits into half of it.
        means = self.mean(self.hidden(states).relu()).float().exp().clamp(1e-5, 1e6)
        return means, self.dispersion.float().exp().clamp(1e-4, 1e4)


class ConcatenatingDecoder(nn.Module):
    """Perceptron that sees the covariates, one-hot, before each hidden block; values are not negative."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.numbers = (config.num_batches, config.num_datasets, config.num_platforms)
        self.blocks = _blocks(config, config.latent_size, further=sum(self.numbers))
        self.out_proj = nn.Linear(
            config.decoder_hidden_size if len(self.blocks) else config.latent_size, config.num_genes
        )

    def forward(self, latent: Tensor, covariates: Covariates) -> tuple[Tensor, None]:
        """(n_cells, latent_size) -> values, (n_cells, num_genes). An unknown covariate is zeros."""
        known = [
            latent.new_zeros(len(latent), number) if values is None else nn.functional.one_hot(values, number)
            for number, values in zip(self.numbers, covariates, strict=True)
            if number
        ]
        states = latent
        for block in self.blocks:
            states = block(torch.cat([states, *(one.to(states.dtype) for one in known)], 1))
        return self.out_proj(states).relu(), None


class ResidualDecoder(nn.Module):
    """Perceptron with the batch added after each block, whose blocks are all seen by the output."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.blocks = _blocks(config, config.latent_size)
        self.batch_embedding = nn.Embedding(config.num_batches, width) if config.num_batches else None
        self.batch_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width * len(self.blocks), config.num_genes)
        self.activation = nn.PReLU()

    def forward(self, latent: Tensor, covariates: Covariates) -> tuple[Tensor, None]:
        """(n_cells, latent_size) -> values, (n_cells, num_genes)."""
        states, seen = latent, []
        for block in self.blocks:
            states = block(states)
            if self.batch_embedding is not None and covariates[0] is not None:
                states = states + self.batch_norm(self.batch_embedding(covariates[0]))
            seen.append(states)
        return self.activation(self.out_proj(torch.cat(seen, 1))), None


class PerceptronDecoder(nn.Module):
    """Dropout and linear layers with ReLU between: the head of classification, denoising and perturbation."""

    def __init__(self, n_inputs: int, n_hidden: int, n_outputs: int, *, n_layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [n_inputs, *[n_hidden] * (n_layers - 1), n_outputs]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, covariates: Covariates | None = None) -> tuple[Tensor, None]:
        """(n_cells, n_inputs) -> (n_cells, n_outputs); covariates are not seen."""
        del covariates
        for number, linear in enumerate(self.linears):
            states = linear(self.dropout(states.relu() if number else states))
        return states, None


def decoder_of(config: CellPLMConfig) -> nn.Module:
    """The decoder that ``config.decoder_type`` names."""
    if config.decoder_type == "perceptron":
        return PerceptronDecoder(
            config.latent_size,
            config.decoder_hidden_size,
            config.num_genes,
            n_layers=config.decoder_layers,
            dropout=config.hidden_dropout_prob,
        )
    made = {"nbmlp": NegativeBinomialDecoder, "mlp": ConcatenatingDecoder, "resmlp": ResidualDecoder}
    return made[config.decoder_type](config)


def _blocks(config: CellPLMConfig, n_inputs: int, *, further: int = 0) -> nn.ModuleList:
    """``decoder_layers - 1`` hidden blocks."""
    width = config.decoder_hidden_size
    return nn.ModuleList(
        PReLUBlock(
            (width if number else n_inputs) + further,
            width,
            dropout=config.hidden_dropout_prob,
            norm_type=config.norm_type,
        )
        for number in range(config.decoder_layers - 1)
    )
