"""Pooling of token states."""

from __future__ import annotations

import torch

from scfm_hf.nn.pooling import masked_mean, without_specials

STATES = torch.arange(24.0).view(2, 4, 3)


def test_the_mean_is_over_the_mask_alone() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(masked_mean(STATES, mask), torch.stack([STATES[0, :2].mean(0), torch.zeros(3)]))


def test_special_tokens_are_taken_out() -> None:
    ids, mask = torch.tensor([[7, 1, 2, 0]]), torch.tensor([[1, 1, 1, 0]])
    assert without_specials(mask, ids, (7, 0)).tolist() == [[False, True, True, False]]
    assert without_specials(mask, ids, ()).tolist() == [[True, True, True, False]]
