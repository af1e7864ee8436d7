"""Attention: what is computed is the same in every implementation, and padding is never attended to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.nn.attention import FusedSelfAttention, eager_attention, generation_mask

REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
MASK = REAL[:, None, None, :].expand(-1, 1, 5, -1)


def random_heads() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, 3, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0))


def module(implementation: str = "sdpa") -> FusedSelfAttention:
    torch.manual_seed(0)
    config = ScGPTConfig(hidden_size=8, num_attention_heads=2, attention_probs_dropout_prob=0.0)
    config._attn_implementation = implementation
    return FusedSelfAttention(config).eval()


def test_probabilities_are_softmax_of_scaled_products() -> None:
    query, key, value = random_heads()
    context, probabilities = eager_attention(nn.Identity(), query, key, value, None)
    expected = (query @ key.transpose(2, 3) / 2).softmax(-1)
    torch.testing.assert_close(probabilities, expected)
    torch.testing.assert_close(context.transpose(1, 2), expected @ value)


@pytest.mark.parametrize("additive", [False, True])
def test_no_probability_falls_on_padding_and_a_row_without_keys_gives_zeros(additive: bool) -> None:
    mask = torch.zeros(MASK.shape).masked_fill(~MASK, torch.finfo(torch.float32).min) if additive else MASK
    context, probabilities = eager_attention(nn.Identity(), *random_heads(), mask)
    assert not probabilities.masked_select(~MASK).any()
    torch.testing.assert_close(probabilities[:2].sum(-1), torch.ones(2, 2, 5))
    assert not context[2].any()


def test_sdpa_and_eager_agree_on_every_row() -> None:
    heads = random_heads()
    eager, _ = eager_attention(nn.Identity(), *heads, MASK)
    sdpa, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module(), *heads, MASK, scaling=0.5)
    torch.testing.assert_close(sdpa, eager)


def test_it_equals_torchs_own_multi_head_attention() -> None:
    ours, states = module(), torch.randn(2, 5, 8)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    expected, _ = theirs(states, states, states, key_padding_mask=~REAL[:2])
    got, probabilities = ours(states, MASK[:2])
    torch.testing.assert_close(got, expected)
    assert probabilities is None, "only eager attention gives probabilities"
    assert module("eager")(states, MASK[:2])[1].shape == (2, 2, 5, 5)


def test_tokens_after_the_projected_ones_keep_their_plain_context() -> None:
    attention, states = module(), torch.randn(2, 5, 8)
    everything, _ = attention(states, None)
    part, _ = attention(states, None, 3)
    torch.testing.assert_close(part[:, :3], everything[:, :3])
    torch.testing.assert_close(attention.out_proj(part[:, 3:]), everything[:, 3:])


def test_genes_to_be_generated_see_the_given_ones_and_themselves() -> None:
    mask = generation_mask(torch.tensor([[1, 0]]), n_cells=1, n_given=2, n_tokens=4, device=torch.device("cpu"))
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
