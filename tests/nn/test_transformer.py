"""Transformer layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.nn.transformer import TransformerLayer, run_transformer_layers


def layer(**options: Any) -> TransformerLayer:
    torch.manual_seed(0)
    config = ScGPTConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12, **options)
    config._attn_implementation = "sdpa"
    return TransformerLayer(config).eval()


def test_post_norm_equals_torchs_own_layer() -> None:
    ours, states = layer(), torch.randn(2, 5, 8)
    theirs = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True, activation="relu").eval()
    names = {"self_attn.qkv.weight": "self_attn.in_proj_weight", "self_attn.qkv.bias": "self_attn.in_proj_bias"}
    theirs.load_state_dict({names.get(name, name): tensor for name, tensor in ours.state_dict().items()})
    torch.testing.assert_close(ours(states, None)[0], theirs(states))


def test_residual_norm_acts_on_the_stream_itself() -> None:
    ours, states = layer(norm_position="residual"), torch.randn(2, 5, 8)
    stream = ours.norm1(states)
    stream = ours.norm2(stream + ours.self_attn(stream, None)[0])
    torch.testing.assert_close(ours(states, None)[0], stream + ours.linear2(ours.linear1(stream).relu()))


def test_dropout_acts_in_training_only() -> None:
    ours, states = layer(hidden_dropout_prob=0.5), torch.randn(2, 5, 8)
    assert torch.equal(ours(states, None)[0], ours(states, None)[0])
    assert not torch.equal(ours.train()(states, None)[0], ours(states, None)[0])


def test_all_layers_keep_what_is_asked_for_and_give_zeros_to_a_cell_without_tokens() -> None:
    config = ScGPTConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    layers = nn.ModuleList(TransformerLayer(config) for _ in range(2)).eval()
    states, real = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    last, kept, attentions = run_transformer_layers(
        layers, states, real, config=config, keep={0, 1}, keep_attentions=True
    )
    assert list(kept) == [0, 1] and len(attentions) == 2
    assert not last[1].any()
    alone = run_transformer_layers(layers, states[:1, :3], None, config=config, keep=set())[0]
    torch.testing.assert_close(last[:1, :3], alone)
