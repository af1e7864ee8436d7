"""How the cells of a set see each other: CellPLM's encoder layers, on sets of one size, (n_sets, n_cells, hidden_size).

There is no mask anywhere: sets of different size never share a tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scfm_hf.nn.attention import eager_attention
from scfm_hf.nn.performer import PerformerAttention

if TYPE_CHECKING:
    from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig

#: Channels of a head of the Performer.
_PERFORMER_HEAD = 64


class CellNorm(nn.Module):
    """The norm of ``config.norm_type`` over the channels of each cell, (..., size) -> the same."""

    def __init__(self, norm_type: str, size: int) -> None:
        super().__init__()
        made = {
            "groupnorm": lambda: nn.GroupNorm(4, size),
            "layernorm": lambda: nn.LayerNorm(size),
            "batchnorm": lambda: nn.BatchNorm1d(size),
            "rmsnorm": lambda: nn.RMSNorm(size, eps=1e-5),
            "none": nn.Identity,
        }
        self.norm = made[norm_type]()

    def forward(self, states: Tensor) -> Tensor:
        """Group and batch norm want the channels in the second of two axes."""
        return self.norm(states.reshape(-1, states.shape[-1])).view(states.shape)


class PReLUBlock(nn.Module):
    """Linear, PReLU, dropout, norm."""

    def __init__(self, n_inputs: int, n_outputs: int, *, dropout: float, norm_type: str) -> None:
        super().__init__()
        self.linear = nn.Linear(n_inputs, n_outputs)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)
        self.norm = CellNorm(norm_type, n_outputs)

    def forward(self, states: Tensor) -> Tensor:
        """(..., n_inputs) -> (..., n_outputs)."""
        return self.norm(self.dropout(self.activation(self.linear(states))))


class CellAttention(nn.Module):
    """Attention over the cells of a set, by torch's scaled dot product or eagerly; the others differ in ``mix``."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.config, self.n_heads = config, config.num_attention_heads
        size = config.hidden_size
        self.query, self.key, self.value, self.out_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """(n_sets, n_cells, hidden_size) -> the same."""
        projected = (layer(states) for layer in (self.query, self.key, self.value))
        heads = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in projected)
        return self.out_proj(self.mix(*heads).transpose(1, 2).flatten(2))

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let the cells see each other; all (n_sets, n_heads, n_cells, head_size)."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        scaling = query.shape[-1] ** -0.5
        return attend(self, query, key, value, None, dropout=dropout, scaling=scaling)[0].transpose(1, 2)


class FlowAttention(CellAttention):
    """Attention as a flow from sources to sinks, whose capacities compete; linear in the number of cells.

    References
    ----------
    Wu et al. 2022, ICML, "Flowformer: Linearizing Transformers with Conservation Flows".
    """

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        """(n_sets, n_cells, hidden_size) -> the same."""
        return self.dropout(super().forward(states))

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See :class:`CellAttention`."""
        eps = 1e-6
        query, key = query.sigmoid(), key.sigmoid()
        # Inner products with sums over the cells, (n_sets, n_heads, n_cells).
        into = 1 / ((query + eps) * (key.sum(2, keepdim=True) + eps)).sum(-1)
        out = 1 / ((key + eps) * (query.sum(2, keepdim=True) + eps)).sum(-1)
        sink = ((query + eps) * ((key * out[..., None]).sum(2, keepdim=True) + eps)).sum(-1)
        source = ((key + eps) * ((query * into[..., None]).sum(2, keepdim=True) + eps)).sum(-1).clamp(-1, 1)
        allocated, competing = sink.sigmoid(), source.softmax(-1) * query.shape[2]
        flow = (query * into[..., None]) @ (key.transpose(2, 3) @ (value * competing[..., None]))
        return flow * allocated[..., None]


class CosineAttention(CellAttention):
    """Linear attention with a cosine weight on the distance in the order of the cells.

    Denominators are clamped from below although the features can be negative, as in CellPLM's code.

    References
    ----------
    Qin et al. 2022, ICLR, "cosFormer: Rethinking softmax in attention".
    """

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See :class:`CellAttention`."""
        n_cells = query.shape[2]
        place = torch.arange(1, n_cells + 1, device=query.device, dtype=query.dtype)
        angle = place[:, None] * (math.pi / 2 / n_cells)
        query, key = (
            torch.cat([part * angle.sin(), part * angle.cos()], -1) for part in map(nn.functional.gelu, (query, key))
        )
        weights = (query @ key.sum(2)[..., None]).clamp(min=1e-6)
        return (query @ (key.transpose(2, 3) @ value)) / weights


class SpectralLinear(nn.Linear):
    """Linear layer whose weight is divided by its largest singular value and scaled by a learned number.

    The singular vector is estimated by one step from the stored one, which only training replaces (CellPLM's code
    replaces it in evaluation as well, so that a second call differs).
    """

    u: Tensor

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs)
        self.sigma = nn.Parameter(torch.ones(1))
        self.register_buffer("u", torch.ones(n_inputs) / math.sqrt(n_inputs))

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"sigma": torch.ones(1), "u": torch.ones(self.in_features) / math.sqrt(self.in_features)}

    def forward(self, states: Tensor) -> Tensor:
        """(..., n_inputs) -> (..., n_outputs)."""
        with torch.no_grad():
            v = nn.functional.normalize(self.weight @ self.u, dim=0)
            u = nn.functional.normalize(self.weight.T @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        largest = v @ (self.weight @ u)
        return nn.functional.linear(states, self.sigma / largest * self.weight, self.bias)


class EncoderLayer(GradientCheckpointingLayer):
    """Norm, attention, residual; norm, feed-forward, residual.

    ``config.encoder_type`` chooses attention, norm and feed-forward.
    """

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        size, wide, kind = config.hidden_size, config.intermediate_size, config.encoder_type
        linear = SpectralLinear if kind == "transformer" else nn.Linear
        self.self_attn = _attention(config)
        self.linear1, self.linear2 = linear(size, wide), linear(wide, size)
        self.norm1, self.norm2 = (_layer_norm(config) for _ in range(2))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        """(n_sets, n_cells, hidden_size) -> the same."""
        states = states + self.dropout(self.self_attn(self.norm1(states)))
        wide = self.dropout(nn.functional.gelu(self.linear1(self.norm2(states))))
        return states + self.dropout(self.linear2(wide))


class PerceptronLayer(GradientCheckpointingLayer):
    """A layer of the ``mlp`` encoder: each cell on its own."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.block = PReLUBlock(size, size, dropout=config.hidden_dropout_prob, norm_type=config.norm_type)

    def forward(self, states: Tensor) -> Tensor:
        """(n_sets, n_cells, hidden_size) -> the same."""
        return states + self.block(states)


def encoder_layer(config: CellPLMConfig) -> nn.Module:
    """A layer of the encoder that ``config.encoder_type`` names."""
    return PerceptronLayer(config) if config.encoder_type == "mlp" else EncoderLayer(config)


def _attention(config: CellPLMConfig) -> nn.Module:
    if config.encoder_type == "performer":
        # One maximum for all keys of a set, as in CellPLM's code; heads of 64 channels whatever the width.
        return PerformerAttention(config.hidden_size, config.num_attention_heads, _PERFORMER_HEAD)
    made = {"flowformer": FlowAttention, "cosformer": CosineAttention, "transformer": CellAttention}
    return made[config.encoder_type](config)


def _layer_norm(config: CellPLMConfig) -> nn.Module:
    eps = {"transformer": 1e-5, "performer": 1e-6}
    if config.encoder_type in eps:
        return nn.RMSNorm(config.hidden_size, eps=eps[config.encoder_type])
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
