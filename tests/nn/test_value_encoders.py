"""Encodings of values."""

from __future__ import annotations

import torch

from scfm_hf.nn.value_encoders import ContinuousValueEncoder, NormedEmbedding


def test_values_are_told_apart_up_to_the_maximum_and_below_zero() -> None:
    encoder = ContinuousValueEncoder(8, dropout=0.5, layer_norm_eps=1e-5, max_value=512).eval()
    encoded = encoder(torch.tensor([[511, 512, 513, -1, -2]]))[0]
    assert encoded.shape == (5, 8)
    assert torch.equal(encoded[1], encoded[2])
    for one, other in ((0, 1), (3, 4)):
        assert not torch.equal(encoded[one], encoded[other])


def test_normed_embeddings_have_mean_0_and_variance_1() -> None:
    encoded = NormedEmbedding(10, 16, layer_norm_eps=1e-5, padding_idx=0)(torch.tensor([[1.0, 9.0]]))
    torch.testing.assert_close(encoded.mean(-1), torch.zeros(1, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.var(-1, unbiased=False), torch.ones(1, 2), atol=1e-3, rtol=0)
