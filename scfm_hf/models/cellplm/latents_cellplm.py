"""CellPLM's latents: from the normed state of a cell to its embedding, and the loss that shapes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig


class Latent(NamedTuple):
    """What a latent gives.

    Parameters
    ----------
    vector
        Embedding, (n_cells, latent_size): a draw in training, else the mean.
    loss
        Scalar.
    cluster_logits
        Of a Gaussian mixture, (n_cells, n_clusters).
    """

    vector: Tensor
    loss: Tensor
    cluster_logits: Tensor | None = None


class GaussianMixtureLatent(nn.Module):
    """Variational latent whose prior is a mixture of Gaussians.

    In evaluation a cell belongs to its likeliest cluster, unless draws are given; the original draws one in every call.
    """

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.config = config
        width, size, n_clusters = config.latent_hidden_size, config.latent_size, config.num_clusters
        self.cluster = nn.Linear(config.hidden_size, n_clusters)
        self.hidden = nn.Linear(config.hidden_size + n_clusters, width)
        self.mean, self.variance = nn.Linear(width, size), nn.Linear(width, size)
        self.prior_mean, self.prior_variance = nn.Linear(n_clusters, size), nn.Linear(n_clusters, size)

    def forward(self, states: Tensor, noise: Tensor | None, cluster_draws: Tensor | None, alive: Tensor) -> Latent:
        """Embed cells.

        Parameters
        ----------
        states
            (n_cells, hidden_size).
        noise
            Standard normal draws, (n_cells, latent_size); None draws them in training. In evaluation they enter the
            loss alone, which without them is that of the mean.
        cluster_draws
            Uniform draws in [0, 1), (n_cells, n_clusters); None draws them in training, and takes the likeliest cluster
            in evaluation.
        alive
            Cells that count in the loss, bool, (n_cells,).
        """
        logits = self.cluster(states)
        member = self._cluster(logits, cluster_draws)
        hidden = self.hidden(torch.cat([states, member], 1)).relu()
        mean, variance = self.mean(hidden), nn.functional.softplus(self.variance(hidden))
        if noise is None and self.training:
            noise = torch.randn_like(mean)
        drawn = mean if noise is None else mean + (variance + 1e-10).sqrt() * noise.to(mean.dtype)
        prior_mean, prior_variance = self.prior_mean(member), nn.functional.softplus(self.prior_variance(member))
        likelihood = _log_normal(drawn, mean, variance) - _log_normal(drawn, prior_mean, prior_variance)
        negative_entropy = (logits.softmax(1) * logits.log_softmax(1)).sum(1)
        config = self.config
        loss = config.likelihood_weight * _mean_of(likelihood, alive).clamp(min=config.free_bits)
        entropy = _mean_of(negative_entropy, alive) + math.log(config.num_clusters)
        vector = drawn if self.training else mean
        return Latent(vector, loss + config.entropy_weight * entropy.clamp(min=config.free_bits), logits)

    def _cluster(self, logits: Tensor, draws: Tensor | None) -> Tensor:
        """Membership, (n_cells, n_clusters): soft in training, one cluster in evaluation with the soft gradient."""
        if draws is None and self.training:
            draws = torch.rand_like(logits)
        if draws is not None:
            logits = logits - (-(draws + 1e-20).log() + 1e-20).log().to(logits.dtype)
        soft = logits.softmax(1)
        if self.training:
            return soft
        hard = nn.functional.one_hot(soft.argmax(1), soft.shape[1]).to(soft.dtype)
        return hard - soft.detach() + soft


class VariationalLatent(nn.Module):
    """Variational latent with a standard normal prior."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.Linear(config.hidden_size, config.latent_size)
        self.log_variance = nn.Linear(config.hidden_size, config.latent_size)

    def forward(self, states: Tensor, noise: Tensor | None, cluster_draws: Tensor | None, alive: Tensor) -> Latent:
        """Embed cells; see :meth:`GaussianMixtureLatent.forward`. There is a loss in training only."""
        del cluster_draws
        mean = self.mean(states)
        if not self.training:
            return Latent(mean, mean.new_zeros(()))
        deviation = (self.log_variance(states).clamp(-5, 5).exp() + 1e-4).sqrt()
        vector = mean + deviation * (torch.randn_like(mean) if noise is None else noise.to(mean.dtype))
        log_variance = 2 * deviation.log()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
        loss = self.config.kl_weight * _mean_of(divergence, alive)
        return Latent(vector, loss * (loss.detach() >= self.config.kl_threshold))


class LinearLatent(nn.Module):
    """One linear map, of the state or of its continuous and categorical part; or the state itself."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.config = config
        size, self.split = config.hidden_size, config.latent_type == "split"
        if self.split:
            self.continuous = nn.Linear(size, config.continuous_size)
            self.categorical = nn.Linear(size, config.categorical_size)
            size = config.continuous_size + config.categorical_size
        self.linear = nn.Identity() if config.latent_type == "none" else nn.Linear(size, config.latent_size)

    def forward(self, states: Tensor, noise: Tensor | None, cluster_draws: Tensor | None, alive: Tensor) -> Latent:
        """Embed cells; nothing is drawn."""
        del noise, cluster_draws, alive
        loss = states.new_zeros(())
        if self.split:
            continuous = nn.functional.gelu(self.continuous(states))
            states = torch.cat([continuous, self.categorical(states).softmax(1)], 1)
            weights = torch.cat([parameter.flatten() for parameter in self.continuous.parameters()])
            loss = self.config.sparsity_weight * (weights.abs().sum() + weights.norm())
        return Latent(self.linear(states), loss)


def latent_of(config: CellPLMConfig) -> nn.Module:
    """The latent that ``config.latent_type`` names."""
    named = {"gmvae": GaussianMixtureLatent, "vae": VariationalLatent}
    return named.get(config.latent_type, LinearLatent)(config)


def _log_normal(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density of a diagonal normal distribution, (n_cells,)."""
    variance = variance + 1e-8
    return -0.5 * (math.log(2 * math.pi) + variance.log() + (values - mean).square() / variance).sum(1)


def _mean_of(values: Tensor, alive: Tensor) -> Tensor:
    return (values * alive).sum() / alive.sum().clamp(min=1)
