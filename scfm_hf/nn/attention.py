"""Multi-head attention behind transformers' attention interface: a model says what it attends to, never how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, which also gives its probabilities.

    Parameters
    ----------
    module
        Says whether it trains.
    query, key, value
        (n_cells, n_heads, n_tokens, head_size).
    attention_mask
        Bool (True = may attend) or additive, broadcast to (n_cells, n_heads, n_queries, n_keys).
    scaling
        Factor of the scores; None: 1 / sqrt(head_size).
    dropout
        Of the probabilities.

    Returns
    -------
    Context, (n_cells, n_queries, n_heads, head_size), and probabilities. A query that may attend to nothing gets zeros.
    """
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is None:
        probabilities = scores.softmax(-1)
    else:
        lowest = torch.finfo(scores.dtype).min
        allowed = attention_mask if attention_mask.dtype == torch.bool else attention_mask > lowest / 2
        added = 0.0 if attention_mask.dtype == torch.bool else attention_mask
        probabilities = (scores + added).masked_fill(~allowed, lowest).softmax(-1)
        probabilities = probabilities * allowed.any(-1, keepdim=True)
    probabilities = nn.functional.dropout(probabilities, dropout, module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


def generation_mask(
    attention_mask: Tensor | None, *, n_cells: int, n_given: int, n_tokens: int, device: torch.device
) -> Tensor:
    """Who sees whom where genes are to be generated: every token the real given genes, a generated one itself too.

    Parameters
    ----------
    attention_mask
        1 = real, of the given genes, (n_cells, n_given); None: all are.
    n_cells, n_given, n_tokens, device
        Sizes; the genes to be generated stand behind the given ones.

    Returns
    -------
    Bool, (n_cells, 1, n_tokens, n_tokens).
    """
    real = torch.ones(n_cells, n_given, dtype=torch.bool, device=device)
    real = real if attention_mask is None else attention_mask.bool()
    seen = nn.functional.pad(real, (0, n_tokens - n_given))[:, None, None, :].expand(-1, 1, n_tokens, -1)
    itself = torch.eye(n_tokens, dtype=torch.bool, device=device)
    itself[:n_given] = False
    return seen | itself


class FusedSelfAttention(nn.Module):
    """Self-attention with one projection for queries, keys and values.

    Parameters
    ----------
    config
        With ``hidden_size``, ``num_attention_heads`` and ``attention_probs_dropout_prob``.
    """

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, states: Tensor, attention_mask: Tensor | None, n_projected: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Parameters
        ----------
        states
            (n_cells, n_tokens, hidden_size).
        attention_mask
            As the implementation wants it, see ``transformers.masking_utils``.
        n_projected
            Only the first so many tokens pass through ``out_proj``; None: all.

        Returns
        -------
        New states and, with eager attention, probabilities.
        """
        shape = (*states.shape[:2], 3, -1, self.head_size)
        query, key, value = self.qkv(states).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, probabilities = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling)
        context = context.reshape(states.shape)
        if n_projected is None or n_projected == context.shape[1]:
            return self.out_proj(context), probabilities
        projected = self.out_proj(context[:, :n_projected])
        return torch.cat([projected, context[:, n_projected:]], 1), probabilities
