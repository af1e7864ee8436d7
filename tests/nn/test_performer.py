"""Performer: what it approximates, which cells see which, and what padding does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scfm_hf.nn.performer import (
    PerformerAttention,
    PerformerLayer,
    ProjectionSchedule,
    draw_projection,
    n_random_features,
    run_performer_layers,
)

REAL = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def attention(**options: Any) -> PerformerAttention:
    torch.manual_seed(0)
    return PerformerAttention(12, 2, 8, **options).eval()


def states(n_cells: int = 2) -> torch.Tensor:
    return torch.randn(n_cells, 6, 12, generator=torch.Generator().manual_seed(1))


def test_directions_are_orthogonal_within_a_block_of_the_heads_size() -> None:
    assert n_random_features(64) == 266
    directions = draw_projection(20, 8)
    assert directions.shape == (20, 8)
    for start in (0, 8, 16):
        block = torch.nn.functional.normalize(directions[start : start + 8])
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16])
def test_directions_are_drawn_in_single_precision_whatever_the_default_is(default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    try:
        assert draw_projection(20, 8).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_many_features_approach_softmax_attention() -> None:
    module, x = attention(num_random_features=50_000, kernel_epsilon=0.0), states() / 2
    query, key = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (module.query, module.key))
    exact = (query @ key.transpose(2, 3) * 8**-0.5).softmax(-1)
    torch.testing.assert_close(module.probabilities(x), exact, atol=0.01, rtol=0)


def test_the_linear_order_of_products_gives_what_the_probabilities_say() -> None:
    module, x = attention(), states()
    probabilities = module.probabilities(x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 2, 6))
    value = module.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
    torch.testing.assert_close(module(x), module.out_proj((probabilities @ value).transpose(1, 2).flatten(2)))
    torch.testing.assert_close(module.received(x), probabilities.mean(2))


def test_a_cell_alone_is_the_same_as_in_a_batch_unless_the_maximum_is_of_the_batch() -> None:
    x = states() * torch.tensor([1.0, 5.0])[:, None, None]
    own, shared = attention(kernel_epsilon=0.1), attention(kernel_epsilon=0.1, key_maximum="batch")
    torch.testing.assert_close(own(x)[:1], own(x[:1]))
    torch.testing.assert_close(shared(x[:1]), own(x[:1]))
    assert (shared(x)[:1] - shared(x[:1])).abs().max() > 1e-4


def test_masked_keys_are_as_if_they_were_not_there() -> None:
    module, x = attention(), states()
    torch.testing.assert_close(module(x, REAL)[1, :3], module(x[1:, :3])[0])
    torch.testing.assert_close(module.received(x, REAL)[1, :, :3], module.received(x[1:, :3])[0])
    assert not module.probabilities(x, REAL)[1, :, :, 3:].any()


def test_kept_masked_keys_have_no_value_but_take_weight() -> None:
    module, x = attention(mask_keys=False), states()
    value = module.value(x).unflatten(-1, (2, 8)).transpose(1, 2) * REAL[:, None, :, None]
    expected = module.out_proj((module.probabilities(x, REAL) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, REAL), expected)
    assert module.probabilities(x, REAL)[1, :, :, 3:].all()


def test_a_cell_without_a_token_gives_finite_states_and_gradients() -> None:
    module, x = attention(), states().requires_grad_()
    out = module(x, torch.zeros_like(REAL))
    torch.testing.assert_close(out, module.out_proj.bias.expand_as(out))
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_features_are_float32_in_half_precision() -> None:
    module, x = attention().bfloat16(), states().bfloat16()
    assert module(x).dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in module.features(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(part.dtype == torch.float32 for part in attention().features(states()))


def test_redrawing_changes_the_projection_alone() -> None:
    module, x = attention(), states()
    weights, before = module.query.weight.clone(), module(x)
    module.redraw()
    assert (module(x) - before).abs().max() > 0
    torch.testing.assert_close(module.query.weight, weights)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_layer_is_its_two_halves_and_drops_out_only_in_training(dropout: float) -> None:
    layer, x = PerformerLayer(12, 2, 8, 24, dropout=dropout).eval(), states()
    torch.testing.assert_close(layer(x), layer.feed_forward(layer.attend(x)))
    layer.train()
    assert torch.equal(layer(x), layer(x)) == (dropout == 0)


def test_large_values_at_masked_keys_overflow_nowhere() -> None:
    module, x = attention(), states()
    x[1, 3:] *= 1e4
    torch.testing.assert_close(module(x, REAL)[1, :3], module(x[1:, :3])[0])
    assert module(x, REAL).isfinite().all()


@pytest.mark.parametrize("after_residual", [False, True])
def test_layers_give_the_states_and_probabilities_that_are_asked_for(after_residual: bool) -> None:
    layers, x = torch.nn.ModuleList(PerformerLayer(12, 2, 8, 24) for _ in range(3)).eval(), states()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    last, kept, none = run_performer_layers(layers, x, mask, keep={0, 3})
    assert sorted(kept) == [0, 3]
    assert not none
    assert torch.equal(kept[3], last)
    assert not last[1].any()
    again, kept, probabilities = run_performer_layers(
        layers, x, mask, keep={1}, keep_attentions=True, attentions_after_residual=after_residual
    )
    torch.testing.assert_close(again, last)
    assert not probabilities[2][1].any()
    first = layers[0]
    looked_at = first.norm1(first.attend(x, mask) if after_residual else x)
    torch.testing.assert_close(probabilities[0][0], first.self_attn.probabilities(looked_at, mask)[0])


def test_projections_are_redrawn_on_schedule_and_only_in_training() -> None:
    model, schedule = torch.nn.Sequential(attention(), attention()), ProjectionSchedule(3)
    seen = []
    for training in (False, True):
        model.train(training)
        for _ in range(4):
            schedule.step(model)
            seen.append(model[1].projection.clone())
    changes = [not torch.equal(one, other) for one, other in zip(seen[:-1], seen[1:], strict=True)]
    assert changes == [False] * 5 + [True, False]
    ProjectionSchedule(None).step(model)
    assert torch.equal(model[1].projection, seen[-1])
