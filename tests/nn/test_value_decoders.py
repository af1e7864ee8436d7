"""Decoders of expression values."""

from __future__ import annotations

import pytest
import torch

from scfm_hf.nn.value_decoders import CellConditionedDecoder, ExpressionDecoder, draw_expressed

CELLS, GENES = torch.randn(3, 8), torch.randn(3, 5, 6)


@pytest.mark.parametrize("with_probability", [False, True])
def test_values_and_probabilities_of_each_gene(with_probability: bool) -> None:
    values, probability = ExpressionDecoder(6, 4, with_probability=with_probability)(GENES)
    assert values.shape == (3, 5)
    assert (probability is not None) == with_probability
    if probability is not None:
        assert ((probability > 0) & (probability < 1)).all()


@pytest.mark.parametrize("style", ["inner product", "inner product, detach", "concat query", "sum query"])
def test_each_style_predicts_a_gene_from_its_query_and_the_cell_alone(style: str) -> None:
    decoder = CellConditionedDecoder(6, 8, style=style, with_probability=False)
    values, probability = decoder(CELLS, GENES)
    assert values.shape == (3, 5)
    assert probability is None
    torch.testing.assert_close(decoder(CELLS[[1]], GENES[[1]][:, [2]])[0][0, 0], values[1, 2])


@pytest.mark.parametrize(("style", "trained"), [("inner product", True), ("inner product, detach", False)])
def test_detaching_keeps_the_genes_from_being_trained(style: str, trained: bool) -> None:
    genes, cells = GENES.clone().requires_grad_(), CELLS.clone().requires_grad_()
    CellConditionedDecoder(6, 8, style=style, with_probability=False)(cells, genes)[0].sum().backward()
    assert cells.grad is not None
    assert (genes.grad is not None) == trained


def test_the_inner_product_is_linear_in_the_cell() -> None:
    decoder = CellConditionedDecoder(6, 8, style="inner product", with_probability=True)
    torch.testing.assert_close(decoder(3 * CELLS, GENES)[0], 3 * decoder(CELLS, GENES)[0])


def test_only_the_inner_product_has_a_probability() -> None:
    with pytest.raises(ValueError, match="inner product"):
        CellConditionedDecoder(6, 8, style="sum query", with_probability=True)


def test_draws_keep_a_value_or_set_it_to_zero_as_often_as_the_probability_says() -> None:
    values, probability = torch.full((1, 10_000), 3.0), torch.full((1, 10_000), 0.25)
    drawn = draw_expressed(values, probability, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 3.0}
    assert (drawn > 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(draw_expressed(values, None), values)
