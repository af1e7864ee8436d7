"""The layers of scPRINT: pre-norm blocks without position or order, and its small perceptrons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scfm_hf.nn.attention import eager_attention

if TYPE_CHECKING:
    from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig


def perceptron(sizes: list[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Linear, then [norm, ReLU, dropout, linear] for each further size."""
    modules: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for before, after in zip(sizes[1:-1], sizes[2:], strict=True):
        modules += [nn.LayerNorm(before), nn.ReLU(), nn.Dropout(dropout), nn.Linear(before, after)]
    return nn.Sequential(*modules)


class GroupedAttention(nn.Module):
    """Attention in which several heads may share their keys and values.

    Parameters
    ----------
    config
        Sizes.
    crossed
        Keys and values come from other states than the queries.
    """

    is_causal = False
    # Keys and values are repeated here, so that the attention function sees as many of them as queries.
    num_key_value_groups = 1

    def __init__(self, config: ScPrintConfig, *, crossed: bool = False) -> None:
        super().__init__()
        self.config, self.crossed = config, crossed
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.heads, self.shared = config.num_attention_heads, config.n_key_value_heads
        size, n_shared = config.hidden_size, 2 * self.shared * self.head_size
        if crossed:
            self.q, self.kv = nn.Linear(size, size), nn.Linear(size, n_shared)
        else:
            self.qkv = nn.Linear(size, size + n_shared)
        self.out_proj = nn.Linear(size, size)

    def project(self, states: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, each (n_cells, n_heads, n_tokens, head_size)."""
        if self.crossed:
            query, both = self._split(self.q(states)), self._split(self.kv(others))
            key, value = both.split([self.shared, self.shared], 1)
        else:
            query, key, value = self._split(self.qkv(states)).split([self.heads, self.shared, self.shared], 1)
        groups = self.heads // self.shared
        return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)

    def _split(self, projected: Tensor) -> Tensor:
        """(n_cells, n_tokens, size) -> (n_cells, n_heads, n_tokens, head_size)."""
        return projected.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def forward(
        self, states: Tensor, mask: Tensor | None, others: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; the states and, where the implementation gives them, the probabilities."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        query, key, value = self.project(states, others)
        context, probabilities = attend(
            self, query, key, value, mask, scaling=self.scaling, dropout=0.0, is_causal=False
        )
        return self.out_proj(context.flatten(2)), probabilities


class ScPrintLayer(GradientCheckpointingLayer):
    """Attention and perceptron, each of the normed states and added to them."""

    def __init__(self, config: ScPrintConfig, *, crossed: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = GroupedAttention(config, crossed=crossed)
        self.norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, states: Tensor, mask: Tensor | None, others: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(n_cells, n_tokens, hidden_size) -> the same, and the attention probabilities; ``others`` give the keys."""
        attended, probabilities = self.attention(self.norm1(states), mask, others)
        states = states + self.dropout(attended)
        hidden = nn.functional.gelu(self.linear1(self.norm2(states)))
        return states + self.dropout(self.linear2(hidden)), probabilities
