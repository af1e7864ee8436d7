"""Running the layers of transformers' BERT while keeping only what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.masking_utils import create_bidirectional_mask

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig
    from transformers.models.bert.modeling_bert import BertEncoder


def run_bert_layers(
    encoder: BertEncoder,
    config: PreTrainedConfig,
    hidden: Tensor,
    attention_mask: Tensor | None,
    *,
    keep: set[int],
    keep_attentions: bool,
) -> tuple[Tensor, dict[int, Tensor], tuple[Tensor, ...]]:
    """Run all layers.

    Parameters
    ----------
    encoder, config
        The layers, and the configuration that names the attention implementation; it must be eager for attentions.
    hidden
        Embeddings, (n_cells, n_tokens, hidden_size).
    attention_mask
        1 = real token, (n_cells, n_tokens); None: all are.
    keep
        Numbers of the states to return: 0 the embeddings, n those after the n-th layer.
    keep_attentions
        Return attention probabilities.

    Returns
    -------
    States after the last layer, the kept states by number, and attention probabilities of each layer. A cell without a
    token has nothing to attend to: it gets zeros, whatever the attention implementation makes of it.
    """
    alive = None if attention_mask is None else attention_mask.bool().any(1)[:, None, None].to(hidden.dtype)
    hidden = hidden if alive is None else hidden * alive
    kept = {0: hidden} if 0 in keep else {}
    attentions: list[Tensor] = []
    mask = create_bidirectional_mask(config=config, inputs_embeds=hidden, attention_mask=attention_mask)
    for number, layer in enumerate(encoder.layer, start=1):
        if keep_attentions:
            attended, probabilities = layer.attention(hidden, mask)
            hidden = layer.feed_forward_chunk(attended)
            attentions.append(probabilities)
        else:
            hidden = layer(hidden, mask)
        hidden = hidden if alive is None else hidden * alive
        if number in keep:
            kept[number] = hidden
    if attentions and alive is not None and not alive.all():
        attentions = [probabilities * alive[..., None] for probabilities in attentions]
    return hidden, kept, tuple(attentions)
