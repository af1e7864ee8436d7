"""Transformer layers, written with plain Linear layers so that adapters act in training and in evaluation alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from scfm_hf.nn.attention import FusedSelfAttention

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class TransformerLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward network, each with a residual connection.

    ``config.norm_position`` says where the layer norms stand: ``post`` after each residual sum (Vaswani et al. 2017),
    or ``residual`` before each block *on the residual stream itself*, as in scGPT's flash layer with ``pre_norm=True``.

    Parameters
    ----------
    config
        With the fields of :class:`FusedSelfAttention`, ``intermediate_size``, ``hidden_act``, ``hidden_dropout_prob``,
        ``layer_norm_eps`` and ``norm_position``.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.norm_position = config.norm_position
        self.self_attn = FusedSelfAttention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, states: Tensor, attention_mask: Tensor | None, n_projected: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(n_cells, n_tokens, hidden_size) -> the same, and attention probabilities where eager; see the attention."""
        if self.norm_position == "residual":
            states = self.norm1(states)
        attended, probabilities = self.self_attn(states, attention_mask, n_projected)
        states = states + self.dropout(attended)
        states = self.norm1(states) if self.norm_position == "post" else self.norm2(states)
        states = states + self.dropout(self.linear2(self.dropout(self.activation(self.linear1(states)))))
        return (self.norm2(states) if self.norm_position == "post" else states), probabilities
