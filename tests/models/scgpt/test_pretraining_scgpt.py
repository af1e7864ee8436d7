"""scGPT's heads and losses: each by itself, and their weighted sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.examples import example_of
from torch import Tensor

from scfm_hf.models.scgpt.expression_scgpt import ScGPTForExpressionPrediction
from scfm_hf.models.scgpt.pretraining_scgpt import ScGPTForPreTraining
from scfm_hf.nn.losses import masked_mse

EXAMPLE = example_of("scgpt")
NAME = "ScGPTForPreTraining"
ALL_LOSSES = {
    "expression",
    "expression_zero",
    "cell_expression",
    "cell_expression_zero",
    "class",
    "cell_similarity",
    "batch",
    "contrastive",
}


def make(**options: Any) -> ScGPTForPreTraining:
    torch.manual_seed(0)
    return ScGPTForPreTraining(EXAMPLE.config(NAME, **options)).eval()


def cells() -> dict[str, Tensor]:
    inputs = EXAMPLE.inputs(NAME)
    return {**inputs, **EXAMPLE.labels(NAME, EXAMPLE.config(NAME), inputs)}


def test_the_loss_is_the_weighted_sum_of_all() -> None:
    model = make(ecs_weight=10, ecs_threshold=0.8, adversarial_weight=0.5, contrastive_weight=3)
    output = model(**cells())
    assert output.losses.keys() == ALL_LOSSES
    weights = {"cell_similarity": 10, "batch": 0.5, "contrastive": 3}
    expected = sum(weights.get(name, 1) * loss for name, loss in output.losses.items())
    torch.testing.assert_close(output.loss, expected)


def test_without_anything_to_learn_from_there_is_no_loss() -> None:
    output = make()(**EXAMPLE.inputs(NAME))
    assert output.loss is None
    assert output.losses is None


def test_expression_is_compared_where_it_was_masked() -> None:
    model, batch = make(), cells()
    output = model(**batch)
    masked = batch["values"] == model.config.mask_value
    assert masked.any()
    torch.testing.assert_close(
        output.losses["expression"], (output.predicted_values - batch["labels"])[masked].square().mean()
    )


def test_losses_on_expression_are_those_of_the_smaller_class() -> None:
    batch = {name: tensor for name, tensor in cells().items() if name != "class_index"}
    model = make()
    smaller = ScGPTForExpressionPrediction(model.config).eval()
    smaller.load_state_dict(model.state_dict(), strict=False)
    expected, got = model(**batch), smaller(**batch)
    torch.testing.assert_close(got.predicted_values, expected.predicted_values)
    assert got.losses.keys() == {name for name in ALL_LOSSES if "expression" in name}
    for name, loss in got.losses.items():
        torch.testing.assert_close(loss, expected.losses[name])


def test_the_encoder_is_trained_against_the_batch_classifier() -> None:
    def gradients(model: ScGPTForPreTraining) -> list[Tensor]:
        model.zero_grad()
        model(**cells()).losses["batch"].backward()
        return [model.discriminator.out_proj.weight.grad, model.scgpt.gene_encoder.embedding.weight.grad]

    model = make()
    head, encoder = gradients(model)
    batch = cells()
    cell = model.scgpt.pool(
        model.scgpt(**{n: batch[n] for n in ("input_ids", "values", "attention_mask")})[0], None, None
    )
    model.zero_grad()
    torch.nn.functional.cross_entropy(model.discriminator(cell), batch["batch_index"]).backward()
    torch.testing.assert_close(head, model.discriminator.out_proj.weight.grad)
    torch.testing.assert_close(encoder, -model.scgpt.gene_encoder.embedding.weight.grad)


def test_draws_of_zeros_come_from_the_generator() -> None:
    model, batch = make(), EXAMPLE.inputs(NAME)
    plain, one, two = (
        model(**batch, draw_zeros=draw, generator=torch.Generator().manual_seed(1)) for draw in (False, True, True)
    )
    assert torch.equal(one.predicted_values, two.predicted_values)
    assert ((one.predicted_values == 0) | (one.predicted_values == plain.predicted_values)).all()
    assert not torch.equal(one.predicted_values, plain.predicted_values)


# ----------------------------------------------------------------------------------------------------------- generation


def generative_cells() -> dict[str, Tensor]:
    """The last genes are to be generated; two of them are padding in the first cell."""
    inputs, n = EXAMPLE.inputs(NAME), 5
    mask = torch.ones(8, n, dtype=torch.long)
    mask[0, 3:] = 0
    given = {name: tensor[:, :-n] if tensor.ndim > 1 else tensor for name, tensor in inputs.items()}
    return {
        **given,
        "generated_ids": inputs["input_ids"][:, -n:],
        "generated_mask": mask,
        "labels": torch.rand(8, n),
    }


def test_generated_values_are_compared_where_they_are_real() -> None:
    model, batch = make(generative=True), generative_cells()
    output = model(**batch)
    assert output.generated_values.shape == batch["labels"].shape
    assert output.predicted_values.shape == batch["values"].shape
    expected = masked_mse(output.generated_values, batch["labels"], batch["generated_mask"])
    torch.testing.assert_close(output.losses["expression"], expected)
    changed = {**batch, "labels": batch["labels"].masked_fill(batch["generated_mask"] == 0, 1e6)}
    torch.testing.assert_close(model(**changed).loss, output.loss)


def test_the_prompted_pass_is_that_of_the_cell_embedding() -> None:
    model, batch = make(generative=True, prompted_weight=2, normalize_embedding=False), generative_cells()
    output = model(**batch)
    again = model(**batch, cell_prompt=output.cell_embedding.detach())
    torch.testing.assert_close(output.losses["prompted_expression"], again.losses["expression"])
    assert "prompted_expression" not in again.losses
    assert "prompted_expression" not in make(generative=True)(**batch).losses


@pytest.mark.parametrize("with_values", [False, True])
def test_expression_is_generated_from_the_embedding_alone(with_values: bool) -> None:
    model, batch = make(), EXAMPLE.inputs(NAME)
    values = batch["values"] if with_values else None
    given = {name: batch[name] for name in ("attention_mask", "batch_index")}
    embedding = torch.randn(8, 16)
    generated = model.generate_values(embedding, batch["input_ids"], values, **given)
    assert generated.shape == batch["values"].shape
    assert not torch.allclose(model.generate_values(-embedding, batch["input_ids"], values, **given), generated)


# ----------------------------------------------------------------------------------------------------------- modalities


def test_modalities_reach_the_decoders_and_not_the_encoder() -> None:
    batch = {name: tensor for name, tensor in cells().items() if name != "class_index"}
    model = make(num_modalities=3, modality_names=["rna", "protein", "<pad>"], normalize_embedding=False)
    one, two = (model(**batch, token_type_ids=torch.full_like(batch["input_ids"], modality)) for modality in (0, 1))
    assert torch.equal(one.cell_embedding, two.cell_embedding)
    for name in ("predicted_values", "cell_predicted_values"):
        assert not torch.allclose(one[name], two[name])
