"""Pooling of token states."""

from __future__ import annotations

import pytest
import torch

from scfm_hf.nn.pooling import masked_mean, pool_tokens, unit_length, without_specials

STATES = torch.arange(24.0).view(2, 4, 3)


def test_the_mean_is_over_the_mask_alone() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(masked_mean(STATES, mask), torch.stack([STATES[0, :2].mean(0), torch.zeros(3)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_holds_long_cells_and_empty_ones(dtype: torch.dtype) -> None:
    """4,096 states of 20 sum up to more than float16 has, and 1e-12, the least length, to less."""
    states, mask = torch.full((1, 4096, 3), 20.0, dtype=dtype), torch.ones(1, 4096)
    assert torch.equal(masked_mean(states, mask), states[:, 0])
    assert masked_mean(states, mask).dtype == unit_length(states).dtype == dtype
    weighted = pool_tokens(states, torch.full((1, 4096), 50.0), None, pooling="weighted")
    assert torch.allclose(weighted.float().norm(), torch.ones(()), atol=1e-2)
    assert torch.equal(unit_length(torch.zeros(2, 3, dtype=dtype)), torch.zeros(2, 3, dtype=dtype))


def test_special_tokens_are_taken_out() -> None:
    ids, mask = torch.tensor([[7, 1, 2, 0]]), torch.tensor([[1, 1, 1, 0]])
    assert without_specials(mask, ids, (7, 0)).tolist() == [[False, True, True, False]]
    assert without_specials(mask, ids, ()).tolist() == [[True, True, True, False]]


def test_the_ways_of_scgpt_differ_in_what_padding_and_masks_add() -> None:
    mask, values = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[2.0, -1, 5, 5], [1, 1, 1, 1]])

    def pooled(pooling: str, padding: str = "ignored") -> torch.Tensor:
        return pool_tokens(STATES, values, mask, pooling=pooling, padding=padding)[0]

    assert torch.equal(pooled("cls"), STATES[0, 0])
    assert torch.equal(pooled("mean"), STATES[0, :2].mean(0))
    assert torch.equal(pooled("mean", "zeros"), STATES[0, :2].sum(0) / 4)
    assert torch.equal(pooled("mean", "states"), STATES[0].mean(0))
    assert torch.allclose(pooled("weighted"), STATES[0, 0] / STATES[0, 0].norm())
    signed = 2 * STATES[0, 0] - STATES[0, 1]
    assert torch.allclose(pooled("signed_weighted"), signed / signed.norm())
    with pytest.raises(ValueError, match="needs values"):
        pool_tokens(STATES, None, mask, pooling="weighted")
