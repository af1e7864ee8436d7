"""scGPT's encoder: what it demands, what a token may see, and what a cell's embedding is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.examples import example_of, forward_parameters
from torch import Tensor

from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.models.scgpt.expression_scgpt import ScGPTForExpressionPrediction
from scfm_hf.models.scgpt.modeling_scgpt import ScGPTForSequenceClassification, ScGPTModel

EXAMPLE = example_of("scgpt")


def make(**options: Any) -> ScGPTModel:
    torch.manual_seed(0)
    return ScGPTModel(EXAMPLE.config("ScGPTModel", **options)).eval()


def cells() -> dict[str, Tensor]:
    return EXAMPLE.inputs("ScGPTModel")


# --------------------------------------------------------------------------------------------------------------- inputs


def test_values_are_needed() -> None:
    batch = cells()
    del batch["values"]
    for model in (make(), ScGPTForSequenceClassification(EXAMPLE.config("ScGPTForSequenceClassification"))):
        with pytest.raises(ValueError, match="values="):
            model(**batch)


def test_unknown_inputs_raise() -> None:
    with pytest.raises(TypeError, match="batch_labels"):
        make()(**cells(), batch_labels=torch.zeros(8))


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"num_domains": 2}, "batch_index"), ({"num_perturbation_flags": 3}, "perturbation_flags")],
)
def test_a_model_says_what_else_it_needs(options: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}="):
        make(**options)(**cells())


@pytest.mark.parametrize(
    ("options", "missing"), [({"num_batch_labels": 2}, "batch_index"), ({"num_modalities": 2}, "token_type_ids")]
)
def test_decoders_say_what_they_need(options: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}="):
        ScGPTForExpressionPrediction(EXAMPLE.config("ScGPTForExpressionPrediction", **options))(**cells())


def test_no_input_but_labels_has_a_name_that_trainer_takes_for_labels() -> None:
    for name in EXAMPLE.spec.class_names:
        parameters = forward_parameters(EXAMPLE.spec.load_class(name))
        assert [parameter for parameter in parameters if "label" in parameter] in ([], ["labels"])


def test_the_order_of_genes_changes_nothing() -> None:
    model, batch = make(), cells()
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(batch["input_ids"].shape[1] - 1)])
    expected = model(**batch).cell_embedding
    shuffled = {name: tensor[:, order] for name, tensor in batch.items()}
    torch.testing.assert_close(model(**shuffled).cell_embedding, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"mvc_style": "outer product"}, {"hidden_size": 10, "num_attention_heads": 4}])
def test_impossible_configurations_raise(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ScGPTConfig(**options)
    with pytest.raises(ValueError, match="zero probability"):
        ScGPTConfig(mvc_style="sum query", explicit_zero_probability=True)


# -------------------------------------------------------------------------------------------------------------- pooling


def test_the_embedding_has_length_one_on_request_only() -> None:
    scaled, plain = make()(**cells()), make(normalize_embedding=False)(**cells())
    torch.testing.assert_close(plain.cell_embedding, plain.last_hidden_state[:, 0])
    torch.testing.assert_close(scaled.cell_embedding, torch.nn.functional.normalize(plain.cell_embedding, dim=1))


@pytest.mark.parametrize("pooling", ["cls", "mean", "weighted", "signed_weighted"])
def test_poolings_leave_padding_out(pooling: str) -> None:
    model, batch = make(pooling=pooling), cells()
    together = model(**batch).cell_embedding
    for cell, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = model(**{name: tensor[[cell], :length] for name, tensor in batch.items()})
        torch.testing.assert_close(alone.cell_embedding[0], together[cell], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["zeros", "states"])
def test_padding_counts_on_request_as_in_the_original(padding: str) -> None:
    batch = cells()
    output = make(pooling="mean", pool_padding=padding, normalize_embedding=False)(**batch)
    states = output.last_hidden_state
    states = states * batch["attention_mask"].unsqueeze(-1) if padding == "zeros" else states
    torch.testing.assert_close(output.cell_embedding, states.mean(1))


def test_masked_values_weigh_nothing_unless_asked() -> None:
    batch = cells()
    other = {**batch, "values": batch["values"].masked_fill(batch["values"] < 0, -7)}
    states = torch.randn(*batch["values"].shape, 16)
    for pooling, same in (("weighted", True), ("signed_weighted", False)):
        model = make(pooling=pooling)
        one, two = (model.pool(states, given["values"], given["attention_mask"]) for given in (batch, other))
        assert torch.allclose(one, two) == same


# ------------------------------------------------------------------------------------------------ domains, generation


def test_each_cell_is_normalised_by_its_own_domain() -> None:
    model, batch = make(num_domains=2), cells()
    model.batch_norm.norms[1].running_mean.fill_(1)
    domain = torch.arange(8) % 2
    together = model(**batch, batch_index=domain).cell_embedding
    swapped = model(**batch, batch_index=1 - domain).cell_embedding
    alone = model(**{name: tensor[[3]] for name, tensor in batch.items()}, batch_index=domain[[3]]).cell_embedding
    torch.testing.assert_close(alone[0], together[3], atol=1e-5, rtol=0)
    assert not torch.allclose(together, swapped, atol=1e-3)


def split(n_generated: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cells whose last genes are to be generated."""
    batch = cells()
    generated = batch["input_ids"][:, -n_generated:].clone()
    return {name: tensor[:, :-n_generated] for name, tensor in batch.items()}, {"generated_ids": generated}


def test_generated_genes_see_the_given_and_themselves_and_nobody_sees_them() -> None:
    model = make(generative=True)
    given, generated = split(4)
    attentions = model(**given, **generated, output_attentions=True).attentions
    n_given = given["input_ids"].shape[1]
    for layer in attentions:
        assert not layer[:, :, :, n_given:][:, :, :n_given].any()
        among_generated = layer[:, :, n_given:, n_given:]
        assert (among_generated.diagonal(dim1=2, dim2=3) > 0).all()
        torch.testing.assert_close(among_generated, torch.diag_embed(among_generated.diagonal(dim1=2, dim2=3)))
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:3]))


def test_a_generated_gene_does_not_depend_on_the_others() -> None:
    model = make(generative=True)
    given, generated = split(4)
    n_given = given["input_ids"].shape[1]
    together = model(**given, **generated).last_hidden_state
    fewer = model(**given, generated_ids=generated["generated_ids"][:, 2:]).last_hidden_state
    torch.testing.assert_close(fewer[:, n_given:], together[:, n_given + 2 :], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(**given).last_hidden_state, together[:, :n_given], atol=1e-5, rtol=0)


def test_sdpa_and_eager_generate_alike() -> None:
    given, generated = split(4)
    sdpa, eager = make(generative=True), make(generative=True)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(
        eager(**given, **generated).last_hidden_state, sdpa(**given, **generated).last_hidden_state, atol=1e-5, rtol=0
    )


def test_only_a_generative_model_generates() -> None:
    given, generated = split(4)
    with pytest.raises(ValueError, match="generative=False"):
        make()(**given, **generated)


def test_a_prompt_takes_the_place_of_the_first_token() -> None:
    model, batch = make(), cells()
    prompt = torch.randn(8, 16)
    states = model(**batch, cell_prompt=prompt, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(states[:, 0], prompt)
    torch.testing.assert_close(states[:, 1:], model(**batch, output_hidden_states=True).hidden_states[0][:, 1:])
