"""Performer: softmax attention by positive random features (FAVOR+), whose cost grows linearly with the tokens.

References
----------
Choromanski et al. 2021, ICLR, "Rethinking Attention with Performers".
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


def n_random_features(head_size: int) -> int:
    """Usual number of random features of a head, ``head_size * ln(head_size)`` rounded down."""
    return int(head_size * math.log(head_size))


def draw_projection(n_features: int, head_size: int) -> Tensor:
    """Random directions, orthogonal by blocks, with the lengths of normal vectors, float32, (n_features, head_size)."""
    blocks = [_random_rotation(head_size) for _ in range(math.ceil(n_features / head_size))]
    return torch.cat(blocks)[:n_features] * torch.randn(n_features, head_size).norm(dim=1, keepdim=True)


def _random_rotation(size: int) -> Tensor:
    """A uniformly random orthogonal matrix (Mezzadri 2007); the factor Q alone is not uniform, which biases weights."""
    q, r = torch.linalg.qr(torch.randn(size, size))
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

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        states
            (n_cells, n_tokens, hidden_size).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.

        Returns
        -------
        New states, (n_cells, n_tokens, hidden_size).
        """
        value = self._heads(self.value(states))
        query, key = self.features(states, attention_mask)
        with torch.autocast(states.device.type, enabled=False):
            value = value.to(key.dtype)
            if attention_mask is not None:
                value = value * attention_mask.to(value.dtype)[:, None, :, None]
            context = (query @ (key.transpose(2, 3) @ value)) / self._weight(query, key)
        return self.out_proj(context.transpose(1, 2).flatten(2).to(states.dtype))

    def probabilities(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What each token attends to, (n_cells, n_heads, n_queries, n_keys); quadratic in the tokens."""
        query, key = self.features(states, attention_mask)
        with torch.autocast(states.device.type, enabled=False):
            return (query @ key.transpose(2, 3)) / self._weight(query, key)

    def received(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean over queries of what each token receives, (n_cells, n_heads, n_keys); linear in the tokens."""
        query, key = self.features(states, attention_mask)
        with torch.autocast(states.device.type, enabled=False):
            weighted = query / self._weight(query, key)
            if attention_mask is None:
                mean = weighted.mean(2)
            else:
                real = attention_mask.to(weighted.dtype)[:, None, :, None]
                mean = (weighted * real).sum(2) / real.sum(2).clamp(min=1)
            return (key @ mean[..., None]).squeeze(-1)

    def features(self, states: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Random features of queries and keys, float32 at least, each (n_cells, n_heads, n_tokens, n_features)."""
        real = None
        if attention_mask is not None and self.mask_keys:
            real = attention_mask.bool()[:, None, :, None]
        projected = self._heads(self.query(states)), self._heads(self.key(states))
        with torch.autocast(states.device.type, enabled=False):
            (query, query_norm), (key, key_norm) = (self._products(heads) for heads in projected)
            query = self._kernel(query - query.amax(-1, keepdim=True) - query_norm)
            seen = key if real is None else key.masked_fill(~real, torch.finfo(key.dtype).min)
            highest = seen.amax() if self.key_maximum == "batch" else seen.amax((1, 2, 3), keepdim=True)
            key = key - highest - key_norm
            if real is None:
                return query, self._kernel(key)
            return query, self._kernel(key.masked_fill(~real, 0)).masked_fill(~real, 0)

    def _products(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Products with the directions, (..., n_features), and half the squared length, (..., 1)."""
        heads = heads.to(torch.promote_types(heads.dtype, torch.float32)) * self.head_size**-0.25
        return heads @ self.projection.to(heads.dtype).T, heads.square().sum(-1, keepdim=True) / 2

    def _kernel(self, exponents: Tensor) -> Tensor:
        return (exponents.exp() + self.kernel_epsilon) * self.num_random_features**-0.5

    def _heads(self, projected: Tensor) -> Tensor:
        """(n_cells, n_tokens, width) -> (n_cells, n_heads, n_tokens, head_size)."""
        return projected.unflatten(-1, (self.num_attention_heads, self.head_size)).transpose(1, 2)

    @staticmethod
    def _weight(query: Tensor, key: Tensor) -> Tensor:
        """Sum of the weights of each query, (n_cells, n_heads, n_queries, 1); 1 where there is no key at all."""
        weight = query @ key.sum(2)[..., None]
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

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> the same; ``attention_mask`` as of :class:`PerformerAttention`."""
        return self.feed_forward(self.attend(states, attention_mask))

    def attend(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """First half of the layer, with its residual."""
        return states + self.dropout(self.self_attn(self.norm1(states), attention_mask))

    def feed_forward(self, states: Tensor) -> Tensor:
        """Second half of the layer, with its residual."""
        wide = nn.functional.gelu(self.linear1(self.norm2(states)))
        return states + self.dropout(self.linear2(wide))
