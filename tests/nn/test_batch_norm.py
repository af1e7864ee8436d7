"""Batch norm over tokens: each cell by its own domain, real tokens alone in the statistics."""

from __future__ import annotations

import pytest
import torch

from scfm_hf.nn.batch_norm import TokenBatchNorm

REAL = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
DOMAIN = torch.tensor([0, 1, 0])


def norm(*, affine: bool = True, n_domains: int = 2, **options: bool) -> TokenBatchNorm:
    """Norms with statistics, scales and shifts of their own."""
    torch.manual_seed(0)
    made = TokenBatchNorm(4, n_domains=n_domains, affine=affine, **options)
    for one in made.norms:
        one.running_mean.normal_()
        one.running_var.uniform_(0.5, 2)
        if affine:
            torch.nn.init.normal_(one.weight)
            torch.nn.init.normal_(one.bias)
    return made


@pytest.mark.parametrize("affine", [False, True])
def test_in_evaluation_each_cell_is_normalised_by_its_own_domain(affine: bool) -> None:
    made, states = norm(affine=affine).eval(), torch.randn(3, 3, 4)
    got = made(states, REAL, DOMAIN)
    for cell, domain in enumerate(DOMAIN.tolist()):
        torch.testing.assert_close(got[cell], made.norms[domain](states[cell]))
        torch.testing.assert_close(got[cell], made(states[[cell]], REAL[[cell]], DOMAIN[[cell]])[0])


def test_the_first_cell_decides_on_request() -> None:
    made, states = norm(first_cell_decides=True).eval(), torch.randn(3, 3, 4)
    torch.testing.assert_close(made(states, REAL, DOMAIN)[1], made.norms[0](states[1]))


def test_in_training_the_real_tokens_of_a_domain_are_standardised() -> None:
    made, states = norm(affine=False).train(), torch.randn(3, 3, 4)
    got = made(states, REAL, DOMAIN)
    of_domain = got[(DOMAIN == 0)[:, None] & REAL.bool()]
    torch.testing.assert_close(of_domain.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    assert torch.equal(got[1, 2], states[1, 2]), "padding passes as it is"


def test_padding_moves_the_running_statistics_only_on_request() -> None:
    states = torch.randn(3, 3, 4)
    other = states.masked_fill(REAL[:, :, None] == 0, 100)
    for counts_padding in (False, True):
        one, two = (norm(counts_padding=counts_padding).train() for _ in range(2))
        one(states, REAL, DOMAIN), two(other, REAL, DOMAIN)
        assert torch.equal(one.norms[0].running_mean, two.norms[0].running_mean) != counts_padding


def test_several_domains_must_be_named() -> None:
    with pytest.raises(ValueError, match="batch_index="):
        norm()(torch.randn(3, 3, 4), REAL, None)
    with pytest.raises(ValueError, match="domains 0 to 1"):
        norm()(torch.randn(3, 3, 4), REAL, DOMAIN + 1)
    assert norm(n_domains=1).eval()(torch.randn(3, 3, 4), REAL, None).shape == (3, 3, 4)
