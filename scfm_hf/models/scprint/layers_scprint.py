"""The layers of scPRINT: pre-norm blocks without position or order, and its small perceptrons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scfm_hf.nn.attention import eager_attention

if TYPE_CHECKING:
    from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig


def perceptron(sizes: list[int], *, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Linear, then [norm, activation, dropout, linear] for each further size."""
    modules: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for before, after in zip(sizes[1:-1], sizes[2:], strict=True):
        modules += [nn.LayerNorm(before), activation(), nn.Dropout(dropout), nn.Linear(before, after)]
    return nn.Sequential(*modules)


class GroupedSelfAttention(nn.Module):
    """Self-attention in which several heads may share their keys and values."""

    is_causal = False
    # Keys and values are repeated here, so that the attention function sees as many of them as queries.
    num_key_value_groups = 1

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        n_heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.qkv = nn.Linear(config.hidden_size, n_heads * self.head_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, each (n_cells, n_heads, n_tokens, head_size)."""
        heads, shared = self.config.num_attention_heads, self.config.num_key_value_heads
        projected = self.qkv(states).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        query, key, value = projected.split([heads, shared, shared], 1)
        groups = heads // shared
        return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)

    def forward(self, states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Attend; the states and, where the implementation gives them, the probabilities."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        query, key, value = self.project(states)
        context, probabilities = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, is_causal=False
        )
        return self.out_proj(context.flatten(2)), probabilities


class ScPrintLayer(nn.Module):
    """Attention and perceptron, each of the normed states and added to them."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = GroupedSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(n_cells, n_tokens, hidden_size) -> the same, and the attention probabilities."""
        attended, probabilities = self.self_attn(self.norm1(states), attention_mask)
        states = states + self.dropout(attended)
        hidden = nn.functional.gelu(self.linear1(self.norm2(states)))
        return states + self.dropout(self.linear2(hidden)), probabilities
