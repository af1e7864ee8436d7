"""Transformer layers, written with plain Linear layers so that adapters act in training and in evaluation alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from scfm_hf.nn.attention import FusedSelfAttention, generation_mask

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


def run_transformer_layers(
    layers: nn.ModuleList,
    hidden: Tensor,
    attention_mask: Tensor | None,
    *,
    config: PreTrainedConfig,
    keep: set[int],
    n_given: int | None = None,
    keep_attentions: bool = False,
) -> tuple[Tensor, dict[int, Tensor], tuple[Tensor, ...]]:
    """Run all layers, and keep only what is asked for.

    Parameters
    ----------
    layers
        Of :class:`TransformerLayer`.
    hidden
        Embeddings, (n_cells, n_tokens, hidden_size).
    attention_mask
        1 = real token, of the given genes, (n_cells, n_given); None: all are.
    config
        Says which attention runs.
    keep
        Numbers of the states to return: 0 the embeddings, n those after the n-th layer.
    n_given
        Genes behind so many are to be generated: they see the given ones and themselves, nothing sees them, and what
        they attended to passes no output projection. None: there are none.
    keep_attentions
        Return attention probabilities, where the attention gives them.

    Returns
    -------
    States after the last layer, the kept states by number, and attention probabilities of each layer. A cell without a
    token gets zeros, whatever the attention makes of it; with genes to be generated there is no such cell.
    """
    n_cells, n_tokens, _ = hidden.shape
    alive = None
    if n_given is not None and n_given < n_tokens:
        mask: Tensor | None = generation_mask(
            attention_mask, n_cells=n_cells, n_given=n_given, n_tokens=n_tokens, device=hidden.device
        )
    else:
        mask = create_bidirectional_mask(config=config, inputs_embeds=hidden, attention_mask=attention_mask)
        if attention_mask is not None:
            alive = attention_mask.bool().any(1)[:, None, None].to(hidden.dtype)
    hidden = hidden if alive is None else hidden * alive
    kept, attentions = {0: hidden} if 0 in keep else {}, []
    for number, layer in enumerate(layers, start=1):
        hidden, probabilities = layer(hidden, mask, n_given)
        hidden = hidden if alive is None else hidden * alive
        if number in keep:
            kept[number] = hidden
        if keep_attentions and probabilities is not None:
            attentions.append(probabilities)
    return hidden, kept, tuple(attentions)
