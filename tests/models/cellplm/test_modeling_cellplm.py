"""CellPLM's latents, masks, decoders and losses beyond what every family is tested for."""

from __future__ import annotations

import pytest
import torch
from models.examples import Case, example_of
from torch.distributions import NegativeBinomial

from scfm_hf.models.cellplm.configuration_cellplm import DECODERS, LATENTS
from scfm_hf.models.cellplm.masking_cellplm import draw_input_mask
from scfm_hf.models.cellplm.modeling_cellplm import PlanePosition

EXAMPLE = example_of("cellplm")
ENCODER = Case(EXAMPLE, "CellPLMModel")
PRETRAINING = Case(EXAMPLE, "CellPLMForPreTraining")
IMPUTATION = Case(EXAMPLE, "CellPLMForExpressionPrediction")


@pytest.mark.parametrize("latent", LATENTS)
def test_every_latent_embeds_without_a_draw_and_trains(latent: str) -> None:
    width = {"latent_size": 16} if latent == "none" else {}
    model, batch = PRETRAINING.model(latent_type=latent, **width), PRETRAINING.labelled()
    with torch.no_grad():
        first, second = (model(**batch).cell_embedding for _ in range(2))
    assert torch.equal(first, second)
    model.train()(**batch).loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_cluster_of_the_mixture_is_the_likeliest_unless_it_is_drawn() -> None:
    model, batch = ENCODER.model(latent_type="gmvae"), ENCODER.inputs()
    even = torch.full((8, model.config.num_clusters), 0.5)
    with torch.no_grad():
        likeliest = model(**batch)
        assert torch.equal(model(**batch, cluster_draws=even).cell_embedding, likeliest.cell_embedding)
        forced = even.clone()
        forced[torch.arange(8), likeliest.cluster_logits.argmin(1)] = 1 - 1e-7
        drawn = model(**batch, cluster_draws=forced).cell_embedding
    assert (drawn != likeliest.cell_embedding).any(1).all()


def test_training_draws_around_the_mean() -> None:
    model, batch = ENCODER.model(latent_type="vae"), ENCODER.inputs()
    with torch.no_grad():
        mean = model(**batch).cell_embedding
        model.train()
        zeros = torch.zeros(8, model.config.latent_size)
        assert torch.allclose(model(**batch, latent_noise=zeros).cell_embedding, mean, atol=1e-6)
        assert not torch.allclose(model(**batch).cell_embedding, mean, atol=1e-3)


def test_a_divergence_below_the_threshold_costs_nothing() -> None:
    batch = ENCODER.inputs()
    for threshold, free in ((1e9, True), (0.0, False)):
        model = ENCODER.model(latent_type="vae", kl_threshold=threshold).train()
        assert (model(**batch, output_latent_loss=True).latent_loss == 0) == free


# ---------------------------------------------------------------------------------------------------------------- masks


def test_masks_hide_the_share_that_the_configuration_says() -> None:
    torch.manual_seed(0)
    config = ENCODER.config(mask_cell_rate=0.75, mask_gene_rate=0.25)
    for by_cell in (True, False):
        config.mask_by_cell = by_cell
        mask = draw_input_mask(torch.ones(400, 300), config)
        assert mask.any(1).sum() == 300
        # The rate of a cell is drawn from a distribution whose mode is the rate asked for; its mean is 5 / 18.
        assert mask[mask.any(1)].mean() == pytest.approx(5 / 18 if by_cell else 0.25, abs=0.02)
    assert draw_input_mask(torch.ones(4, 3), ENCODER.config(mask_cell_rate=0.0)) is None


def test_hidden_genes_are_not_seen() -> None:
    model, batch = ENCODER.model(), ENCODER.inputs()
    mask = (torch.arange(batch["values"].shape[1]) % 3 == 0).long().expand_as(batch["values"])
    with torch.no_grad():
        hidden = model(**batch, input_mask=mask).cell_embedding
        absent = model(**{**batch, "values": batch["values"] * (1 - mask)}).cell_embedding
    assert torch.equal(hidden, absent)


def test_cells_of_which_nothing_is_hidden_leave_every_gradient_finite() -> None:
    model, batch = PRETRAINING.model().train(), PRETRAINING.labelled()
    mask = torch.zeros_like(batch["values"])
    mask[1, :3] = 1
    output = model(**batch, input_mask=mask)
    output.loss.backward()
    assert output.losses.keys() == {"expression", "hidden_expression", "latent"}
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    # Only the second cell counts.
    batch["labels"] = batch["labels"].clone()
    batch["labels"][0] += 3
    assert torch.equal(model(**batch, input_mask=mask).loss, output.loss)


# ------------------------------------------------------------------------------------------------------------- decoders


def test_the_loss_is_the_likelihood_of_a_negative_binomial() -> None:
    model, batch = PRETRAINING.model(), PRETRAINING.labelled()
    with torch.no_grad():
        output = model(**batch, output_dispersions=True)
    real, mean = batch["attention_mask"].bool(), output.predicted_values.double()
    dispersion = output.dispersions.double()
    known = NegativeBinomial(dispersion, probs=mean / (mean + dispersion))
    expected = -(known.log_prob(batch["labels"].double()) * real).sum(1).mean()
    assert output.losses["expression"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_predictions_have_the_total_of_the_input() -> None:
    batch = IMPUTATION.inputs()
    with torch.no_grad():
        predicted = IMPUTATION.model()(**batch).predicted_values
    assert torch.allclose((predicted * batch["attention_mask"]).sum(1), batch["values"].sum(1), rtol=1e-5)


def test_genes_that_were_not_measured_do_not_count() -> None:
    model, batch = IMPUTATION.model(), IMPUTATION.labelled()
    batch["labels"] = batch["labels"].clone()
    batch["labels"][:, ::2] = -100
    fewer = {**batch, "target_ids": batch["input_ids"][:, 1::2], "labels": batch["labels"][:, 1::2]}
    with torch.no_grad():
        losses = [model(**inputs).losses["expression"] for inputs in (batch, fewer)]
    assert torch.allclose(*losses, rtol=1e-5)


def test_any_gene_can_be_asked_for() -> None:
    model, batch = IMPUTATION.model(), IMPUTATION.inputs()
    wanted = torch.arange(model.config.num_genes).expand(8, -1)
    with torch.no_grad():
        everything = model(**batch, target_ids=wanted).predicted_values
        own = model(**batch).predicted_values
    known = batch["input_ids"].clamp(max=model.config.num_genes - 1)
    assert torch.allclose(everything.gather(1, known), own)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_learns_by_its_objective(decoder: str) -> None:
    objective = {"nbmlp": "nb", "perceptron": "denoising"}.get(decoder, "recon")
    model = IMPUTATION.model(decoder_type=decoder, objective=objective, decoder_layers=3).train()
    loss = model(**IMPUTATION.labelled()).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


def test_an_unknown_covariate_is_the_sum_of_all() -> None:
    model, batch = PRETRAINING.model(), PRETRAINING.inputs()
    batch.pop("batch_index")
    embedding = model.decoder.covariates[0][0].embedding
    with torch.no_grad():
        unknown = model(**batch).means
        embedding.weight[0] = embedding.weight.sum(0)
        known = model(**batch, batch_index=torch.zeros(8, dtype=torch.long)).means
    assert torch.allclose(known, unknown, rtol=1e-5)


def test_a_likelihood_needs_dispersions() -> None:
    with pytest.raises(ValueError, match="needs decoder_type='nbmlp'"):
        IMPUTATION.model(decoder_type="mlp", objective="nb")(**IMPUTATION.labelled())


# ------------------------------------------------------------------------------------------------------------- position


def test_positions_tell_places_apart_and_missing_ones() -> None:
    position = PlanePosition(16)
    with torch.no_grad():
        position.missing.fill_(7.0)
        encoded = position(torch.tensor([[0.2, 0.3], [0.3, 0.2], [-1.0, -1.0], [0.2, 0.3]]))
    assert torch.equal(encoded[0], encoded[3])
    assert (encoded[0] != encoded[1]).any()
    assert (encoded[2] == 7).all()


def test_coordinates_change_nothing_unless_asked() -> None:
    batch, places = ENCODER.inputs(), torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    for used in (False, True):
        model = ENCODER.model(position_type="sinusoidal", use_positional_encoding=used)
        with torch.no_grad():
            same = torch.equal(model(**batch).cell_embedding, model(**batch, coordinates=places).cell_embedding)
        assert same is not used


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_type": "resmlp"},
        {"latent_type": "none", "latent_size": 3},
        {"hidden_size": 18, "num_attention_heads": 4},
        {"use_positional_encoding": True, "position_type": None},
        {"num_genes": 999},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ENCODER.config(**wrong)
