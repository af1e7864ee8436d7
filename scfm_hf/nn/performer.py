"""Performer: softmax attention by positive random features (FAVOR+), whose cost grows linearly with the tokens.

References
----------
Choromanski et al. 2021, ICLR, "Rethinking Attention with Performers".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from collections.abc import Iterable


def n_random_features(head_size: int) -> int:
    """Usual number of random features of a head, ``head_size * ln(head_size)`` rounded down."""
    return int(head_size * math.log(head_size))


def draw_projection(n_features: int, head_size: int) -> Tensor:
    """Random directions, orthogonal by blocks, with the lengths of normal vectors, float32, (n_features, head_size)."""
    blocks = [_random_rotation(head_size) for _ in range(math.ceil(n_features / head_size))]
    lengths = torch.randn(n_features, head_size, dtype=torch.float32).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:n_features] * lengths


def _random_rotation(size: int) -> Tensor:
    """A uniformly random orthogonal matrix (Mezzadri 2007); the factor Q alone is not uniform, which biases weights."""
    # Whatever the default type is: there is no such factorisation in half precision.
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float32))
    return (q * r.diagonal().sign()).T


class PerformerAttention(nn.Module):
    """Self-attention by random features.

    The features are computed in float32 at least. What keeps the exponentials in range, the largest product of a key
    and a direction, also enters the result, because ``kernel_epsilon`` is added behind the exponential: by default it
    is one number a cell, so that a cell does not depend on its batch.

    Parameters
    ----------
    hidden_size, num_attention_heads, head_size
        Sizes; ``num_attention_heads * head_size`` need not be ``hidden_size``.
    num_random_features
        Rows of the projection; None: ``head_size * ln(head_size)``.
    kernel_epsilon
        Added to each feature.
    qkv_bias
        Whether queries, keys and values have a bias.
    key_maximum
        ``cell``: of all keys of a cell. ``batch``: of all keys of the batch, as lucidrains' performer-pytorch; a cell's
        result then depends on its neighbours.
    mask_keys
        Leave masked keys out altogether. Without it they have no value but a weight in the mean, as in that code:
        results depend on the amount of padding.
    """

    projection: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        head_size: int,
        *,
        num_random_features: int | None = None,
        kernel_epsilon: float = 1e-4,
        qkv_bias: bool = False,
        key_maximum: Literal["cell", "batch"] = "cell",
        mask_keys: bool = True,
    ) -> None:
        super().__init__()
        width = num_attention_heads * head_size
        self.num_attention_heads, self.head_size = num_attention_heads, head_size
        self.num_random_features = num_random_features or n_random_features(head_size)
        self.kernel_epsilon, self.key_maximum, self.mask_keys = kernel_epsilon, key_maximum, mask_keys
        self.query, self.key, self.value = (nn.Linear(hidden_size, width, bias=qkv_bias) for _ in range(3))
        self.out_proj = nn.Linear(width, hidden_size)
        self.register_buffer("projection", draw_projection(self.num_random_features, head_size))

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"projection": draw_projection(self.num_random_features, self.head_size)}

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw another projection."""
        self.projection.copy_(draw_projection(self.num_random_features, self.head_size))

    def forward(self, states: Tensor, attention_mask: Tensor | None = None, key_counts: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        states
            (n_cells, n_tokens, hidden_size).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        key_counts
            How many equal keys a token stands for, (n_cells, n_tokens): a single one may stand for all padding, and one
            with 0 is left out. None: as ``mask_keys`` says.

        Returns
        -------
        New states, (n_cells, n_tokens, hidden_size).
        """
        value = self._heads(self.value(states))
        key_counts = self._counts(attention_mask, key_counts)
        query, key = self.features(states, attention_mask, key_counts)
        with torch.autocast(states.device.type, enabled=False):
            value = value.to(key.dtype)
            if attention_mask is not None:
                value = value * attention_mask.to(value.dtype)[:, None, :, None]
            context = (query @ (key.transpose(2, 3) @ value)) / self._weight(query, key, key_counts)
        return self.out_proj(context.transpose(1, 2).flatten(2).to(states.dtype))

    def probabilities(
        self, states: Tensor, attention_mask: Tensor | None = None, key_counts: Tensor | None = None
    ) -> Tensor:
        """What each token attends to, (n_cells, n_heads, n_queries, n_keys); quadratic in the tokens."""
        key_counts = self._counts(attention_mask, key_counts)
        query, key = self.features(states, attention_mask, key_counts)
        with torch.autocast(states.device.type, enabled=False):
            weight = self._weight(query, key, key_counts)
            if key_counts is not None:
                key = key * key_counts.to(key.dtype)[:, None, :, None]
            return (query @ key.transpose(2, 3)) / weight

    def received(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean over queries of what each token receives, (n_cells, n_heads, n_keys); linear in the tokens."""
        query, key = self.features(states, attention_mask)
        with torch.autocast(states.device.type, enabled=False):
            weighted = query / self._weight(query, key, self._counts(attention_mask, None))
            if attention_mask is None:
                return (key @ weighted.mean(2)[..., None]).squeeze(-1)
            real = attention_mask.to(weighted.dtype)[:, None, :, None]
            mean = (weighted * real).sum(2) / real.sum(2).clamp(min=1)
            received = (key @ mean[..., None]).squeeze(-1)
            return received * real.squeeze(-1) if self.mask_keys else received

    def features(
        self, states: Tensor, attention_mask: Tensor | None = None, key_counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Random features of queries and keys, float32 at least, each (n_cells, n_heads, n_tokens, n_features).

        Those of masked keys are to be left out of sums; the mask here only keeps them out of the maximum.
        """
        key_counts = self._counts(attention_mask, key_counts)
        projected = self._heads(self.query(states)), self._heads(self.key(states))
        with torch.autocast(states.device.type, enabled=False):
            (query, query_norm), (key, key_norm) = (self._products(heads) for heads in projected)
            query = self._kernel(query - query.amax(-1, keepdim=True) - query_norm)
            highest = key.amax(-1, keepdim=True)
            if key_counts is not None:
                hidden = ~key_counts.bool()[:, None, :, None]
                limit = torch.finfo(key.dtype).max
                highest, key_norm = highest.masked_fill(hidden, -limit), key_norm.masked_fill(hidden, limit)
            highest = highest.amax() if self.key_maximum == "batch" else highest.amax((1, 2), keepdim=True)
            return query, self._kernel(key - highest - key_norm)

    def _counts(self, attention_mask: Tensor | None, key_counts: Tensor | None) -> Tensor | None:
        """How many keys each token stands for; None: each for itself."""
        return attention_mask if key_counts is None and self.mask_keys else key_counts

    def _products(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Products with the directions, (..., n_features), and half the squared length, (..., 1)."""
        heads = heads.to(torch.promote_types(heads.dtype, torch.float32)) * self.head_size**-0.25
        return heads @ self.projection.to(heads.dtype).T, heads.square().sum(-1, keepdim=True) / 2

    def _kernel(self, exponents: Tensor) -> Tensor:
        return (exponents.exp() + self.kernel_epsilon) * self.num_random_features**-0.5

    def _heads(self, projected: Tensor) -> Tensor:
        """(n_cells, n_tokens, width) -> (n_cells, n_heads, n_tokens, head_size)."""
        return projected.unflatten(-1, (self.num_attention_heads, self.head_size)).transpose(1, 2)

    def _weight(self, query: Tensor, key: Tensor, key_counts: Tensor | None) -> Tensor:
        """Sum of the weights of each query, (n_cells, n_heads, n_queries, 1); 1 where there is no key at all."""
        if key_counts is None:
            return query @ key.sum(2)[..., None]
        weight = query @ (key.transpose(2, 3) @ key_counts.to(key.dtype)[:, None, :, None])
        return weight.masked_fill(weight == 0, 1)


class PerformerLayer(GradientCheckpointingLayer):
    """Norm, attention, residual; norm, feed-forward network with exact GELU, residual.

    Parameters
    ----------
    hidden_size, num_attention_heads, head_size, intermediate_size, layer_norm_eps
        Sizes.
    dropout
        Of what attention and feed-forward network add.
    num_random_features, kernel_epsilon, qkv_bias, key_maximum, mask_keys
        As of :class:`PerformerAttention`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        head_size: int,
        intermediate_size: int,
        *,
        layer_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        num_random_features: int | None = None,
        kernel_epsilon: float = 1e-4,
        qkv_bias: bool = False,
        key_maximum: Literal["cell", "batch"] = "cell",
        mask_keys: bool = True,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(hidden_size, eps=layer_norm_eps) for _ in range(2))
        self.self_attn = PerformerAttention(
            hidden_size,
            num_attention_heads,
            head_size,
            num_random_features=num_random_features,
            kernel_epsilon=kernel_epsilon,
            qkv_bias=qkv_bias,
            key_maximum=key_maximum,
            mask_keys=mask_keys,
        )
        self.linear1 = nn.Linear(hidden_size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, attention_mask: Tensor | None = None, key_counts: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> the same; the other inputs are those of :class:`PerformerAttention`."""
        return self.feed_forward(self.attend(states, attention_mask, key_counts))

    def attend(self, states: Tensor, attention_mask: Tensor | None = None, key_counts: Tensor | None = None) -> Tensor:
        """First half of the layer, with its residual."""
        return states + self.dropout(self.self_attn(self.norm1(states), attention_mask, key_counts))

    def feed_forward(self, states: Tensor) -> Tensor:
        """Second half of the layer, with its residual."""
        wide = nn.functional.gelu(self.linear1(self.norm2(states)))
        return states + self.dropout(self.linear2(wide))


def run_performer_layers(
    layers: Iterable[PerformerLayer],
    hidden: Tensor,
    attention_mask: Tensor | None,
    *,
    keep: set[int],
    keep_attentions: bool = False,
    attentions_after_residual: bool = False,
    key_counts: Tensor | None = None,
    n_hidden: int = 0,
) -> tuple[Tensor, dict[int, Tensor], tuple[Tensor, ...]]:
    """Run all layers, and keep only what is asked for.

    Parameters
    ----------
    layers
        The layers.
    hidden
        Embeddings, (n_cells, n_tokens, hidden_size).
    attention_mask
        1 = real token, (n_cells, n_tokens); None: all are.
    keep
        Numbers of the states to return: 0 the embeddings, n those after the n-th layer.
    keep_attentions
        Return attention probabilities, whose memory is quadratic in the tokens.
    attentions_after_residual
        Compute them from the states behind the attention's own residual, as scBERT and its kin do: they are then not
        those that the layer used.
    key_counts
        How many keys each token stands for, (n_cells, n_tokens); see :class:`PerformerAttention`.
    n_hidden
        The last tokens are not among those that the caller knows: no state of theirs is returned.

    Returns
    -------
    States after the last layer, the kept states by number, and attention probabilities of each layer. A cell without a
    token gets zeros.
    """
    alive = None if attention_mask is None else attention_mask.bool().any(1)[:, None, None].to(hidden.dtype)
    hidden = hidden if alive is None else hidden * alive
    n_shown = hidden.shape[1] - n_hidden
    kept, attentions = {}, []
    if 0 in keep:
        hidden, kept[0] = _show(hidden, n_shown)
    for number, layer in enumerate(layers, start=1):
        if keep_attentions:
            before, attended = hidden, layer.attend(hidden, attention_mask, key_counts)
            looked_at = layer.norm1(attended if attentions_after_residual else before)
            attentions.append(layer.self_attn.probabilities(looked_at, attention_mask, key_counts))
            hidden = layer.feed_forward(attended)
        else:
            hidden = layer(hidden, attention_mask, key_counts)
        hidden = hidden if alive is None else hidden * alive
        if number in keep:
            hidden, kept[number] = _show(hidden, n_shown)
    if attentions and alive is not None and not alive.all():
        attentions = [probabilities * alive[..., None] for probabilities in attentions]
    return (hidden[:, :n_shown] if n_hidden else hidden), kept, tuple(attentions)


def _show(hidden: Tensor, n_shown: int) -> tuple[Tensor, Tensor]:
    """All states and those that are shown, such that the former are computed from the latter."""
    if n_shown == hidden.shape[1]:
        return hidden, hidden
    shown = hidden[:, :n_shown]
    return torch.cat([shown, hidden[:, n_shown:]], 1), shown


class ProjectionSchedule:
    """Redraws all projections of a model every so many forward passes of training.

    Parameters
    ----------
    interval
        Number of passes; None: never.
    """

    def __init__(self, interval: int | None) -> None:
        self.interval, self.passes = interval, 0

    def step(self, model: nn.Module) -> None:
        """Count a pass of a model; in evaluation nothing is counted or redrawn."""
        if self.interval is None or not model.training:
            return
        self.passes += 1
        if self.passes >= self.interval:
            self.passes = 0
            for module in model.modules():
                if isinstance(module, PerformerAttention):
                    module.redraw()
