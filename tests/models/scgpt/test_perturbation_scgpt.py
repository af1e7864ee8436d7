"""scGPT's perturbation model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.examples import example_of

from scfm_hf.models.scgpt.perturbation_scgpt import ScGPTForPerturbation

EXAMPLE = example_of("scgpt")
GENES = torch.arange(2, 12)
VALUES = torch.tensor([[0.0, 1, 2, 0, 3, 0, 1, 1, 0, 2], [1.0, 0, 2, 0, 0, 0, 3, 0, 0, 1], [0.0] * 10])
FLAGS = torch.zeros(3, 10, dtype=torch.long)
FLAGS[:, 2] = 1


def make(**options: Any) -> ScGPTForPerturbation:
    torch.manual_seed(0)
    return ScGPTForPerturbation(EXAMPLE.config("ScGPTForPerturbation", **options)).eval()


def test_a_flag_changes_the_response() -> None:
    model = make()
    assert not torch.allclose(model.predict(GENES, VALUES, FLAGS), model.predict(GENES, VALUES, 0 * FLAGS))


def test_all_genes_are_predicted_by_default() -> None:
    model = make()
    expected = model(GENES.expand(3, -1), VALUES, perturbation_flags=FLAGS).predicted_values
    torch.testing.assert_close(model.predict(GENES, VALUES, FLAGS), expected)


@pytest.mark.parametrize("genes", ["all", "expressed"])
def test_a_response_depends_on_its_cell_alone(genes: Any) -> None:
    model = make()
    together = model.predict(GENES, VALUES, FLAGS, genes=genes)
    for cell in range(3):
        one = slice(cell, cell + 1)
        alone = model.predict(GENES, VALUES[one], FLAGS[one], genes=genes)
        torch.testing.assert_close(alone[0], together[cell], atol=1e-6, rtol=1e-5)


def test_genes_that_are_not_seen_are_predicted_zero() -> None:
    expressed = make().predict(GENES, VALUES, FLAGS, genes="expressed")
    assert not expressed[VALUES == 0].any()
    assert expressed[VALUES != 0].all()
    in_batch = make().predict(GENES, VALUES, FLAGS, genes="expressed_in_batch")
    assert not in_batch[:, (VALUES == 0).all(0)].any()
    assert in_batch[:, (VALUES != 0).any(0)].all()


def test_padding_stays_out_of_the_loss() -> None:
    model, mask = make(), torch.ones(2, 10, dtype=torch.long)
    mask[0, 6:] = 0
    batch = {"input_ids": GENES.expand(2, -1), "values": VALUES[:2], "perturbation_flags": FLAGS[:2]}
    target = torch.rand(2, 10)
    loss = model(**batch, attention_mask=mask, labels=target).loss
    torch.testing.assert_close(model(**batch, attention_mask=mask, labels=target + 9 * (1 - mask)).loss, loss)


def test_the_adaptive_bias_follows_the_mean_of_the_expressed_values() -> None:
    model = make(decoder_adaptive_bias=True)
    states = torch.randn(3, 10, 16)
    coefficient, bias = model.decoder.coefficient(states)[0], model.decoder.bias(states)[0]
    mean = torch.tensor([10 / 6, 7 / 4, 0.0])[:, None]
    torch.testing.assert_close(model.decoder(states, VALUES)[0], coefficient * VALUES + bias * mean)
