"""scFoundation's parts: soft bins, pooling, the decoder over all genes, masks, and what only the original did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.examples import Case, example_of
from models.scfoundation.example import expression

from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig
from scfm_hf.models.scfoundation.values_scfoundation import AutoDiscretization

EXAMPLE = example_of("scfoundation")


def case(name: str) -> Case:
    return Case(EXAMPLE, f"ScFoundation{name}")


def model(name: str, **options: Any) -> Any:
    return case(name).model(**options)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return EXAMPLE.inputs("ScFoundationModel")


def test_a_value_is_the_mean_of_bins_by_its_share_of_each() -> None:
    torch.manual_seed(0)
    module = AutoDiscretization(6, 5, alpha=0.8, initializer_range=0.3)
    values = torch.tensor([[0.0, 1.5, 8.0]])
    first = torch.nn.functional.leaky_relu(values[..., None] * module.expand.weight[:, 0] + module.expand.bias, 0.1)
    weights = (0.8 * first + first @ module.mix.weight.T + module.mix.bias).softmax(-1)
    torch.testing.assert_close(module.weights(values), weights)
    torch.testing.assert_close(module(values), weights @ module.bins.weight)
    marked = module(values, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
    assert torch.equal(marked[0, 0], module.mask)
    assert torch.equal(marked[0, 2], module.padding)
    assert torch.equal(marked[0, 1], module(values)[0, 1])


@torch.no_grad()
def test_the_embedding_joins_both_depths_maximum_and_mean_of_the_genes(batch: dict[str, torch.Tensor]) -> None:
    encoder = model("Model")
    states = encoder(**batch).last_hidden_state
    lengths = batch["attention_mask"].sum(1).tolist()
    for cell, length in enumerate(lengths):
        genes = states[cell, : length - 2]
        expected = torch.cat([states[cell, length - 1], states[cell, length - 2], genes.amax(0), genes.mean(0)])
        torch.testing.assert_close(encoder(**batch).cell_embedding[cell], expected)
    with encoder.embedding_options(pooling="max"):
        largest = encoder(**batch).cell_embedding
    assert all(torch.equal(largest[cell], states[cell, :length].amax(0)) for cell, length in enumerate(lengths))


@torch.no_grad()
def test_embeddings_without_ids_are_read_as_ending_with_the_depths(batch: dict[str, torch.Tensor]) -> None:
    encoder = model("Model")
    embeds = encoder.gene_embedding(batch["input_ids"])
    given = encoder(inputs_embeds=embeds, values=batch["values"], attention_mask=batch["attention_mask"])
    assert torch.equal(given.cell_embedding, encoder(**batch).cell_embedding)


@torch.no_grad()
def test_genes_have_no_order(batch: dict[str, torch.Tensor]) -> None:
    encoder = model("Model")
    one = {name: value[:1, : batch["attention_mask"][0].sum()] for name, value in batch.items()}
    turned = {name: value.flip(1) for name, value in one.items()}
    torch.testing.assert_close(encoder(**turned).cell_embedding, encoder(**one).cell_embedding)


@torch.no_grad()
def test_the_decoder_sees_every_gene_once(batch: dict[str, torch.Tensor]) -> None:
    """Where the encoder saw a gene stands its state, elsewhere the embedding of 0, or of a mask."""
    whole = model("ForExpressionPrediction")
    encoder, decoder, config = whole.scfoundation, whole.decoder, whole.config
    masked = torch.zeros(len(batch["values"]), config.num_genes)
    masked[:, ::7] = 1
    outputs = whole(**batch, masked_genes=masked, output_decoder_states=True, output_gene_embeddings=True)
    hidden = torch.nn.functional.pad(masked, (0, 3)).bool().gather(1, batch["input_ids"])
    seen = batch["attention_mask"].bool() & ~hidden
    states = encoder(**{**batch, "attention_mask": seen.long()}).last_hidden_state
    tokens = encoder.gene_embedding.weight
    for cell in range(2):
        placed = {int(gene): states[cell, place] for place, gene in enumerate(batch["input_ids"][cell])}
        kept = set(batch["input_ids"][cell][seen[cell]].tolist())
        for gene in range(config.num_genes + 2):
            value = encoder.value_embedding(torch.zeros(3))[0]
            if gene in kept:
                value = placed[gene]
            elif gene < config.num_genes and masked[cell, gene]:
                value = encoder.value_embedding.mask
            expected = decoder.input_proj(value + tokens[gene])
            torch.testing.assert_close(outputs.decoder_hidden_states[0][cell, gene], expected)
    torch.testing.assert_close(outputs.predicted_values, decoder.out_proj(outputs.gene_embeddings).squeeze(-1))
    assert len(outputs.decoder_hidden_states) == config.decoder_num_layers + 1


@torch.no_grad()
def test_masked_genes_are_as_if_they_were_not_there(batch: dict[str, torch.Tensor]) -> None:
    whole = model("ForExpressionPrediction")
    masked = torch.zeros(1, whole.config.num_genes)
    masked[0, batch["input_ids"][0, 1]] = 1
    one = {name: value[:1] for name, value in batch.items()}
    changed = {**one, "values": one["values"].clone()}
    changed["values"][0, 1] += 3
    without = {name: torch.cat([value[:, :1], value[:, 2:]], 1) for name, value in one.items()}
    given = whole(**one, masked_genes=masked).predicted_values
    torch.testing.assert_close(whole(**changed, masked_genes=masked).predicted_values, given)
    torch.testing.assert_close(whole(**without, masked_genes=masked).predicted_values, given)
    assert not torch.allclose(whole(**one).predicted_values, given, atol=1e-4)


@torch.no_grad()
def test_the_depth_that_is_asked_for_changes_the_answer(batch: dict[str, torch.Tensor]) -> None:
    whole = model("ForExpressionPrediction")
    deeper = {**batch, "values": torch.where(batch["input_ids"] == 60, batch["values"] + 1, batch["values"])}
    assert not torch.allclose(whole(**deeper).predicted_values, whole(**batch).predicted_values, atol=1e-4)


def test_the_loss_is_that_of_the_labelled_genes(batch: dict[str, torch.Tensor]) -> None:
    whole = model("ForExpressionPrediction")
    labels = expression(whole.config.num_genes, batch)
    labels[:, ::2] = -100
    outputs = whole(**batch, labels=labels)
    expected = (outputs.predicted_values - labels)[:, 1::2].square().mean()
    torch.testing.assert_close(outputs.loss, expected)


@torch.no_grad()
def test_only_on_request_a_cell_depends_on_its_batch(batch: dict[str, torch.Tensor]) -> None:
    states = torch.randn(3, 62, 32, generator=torch.Generator().manual_seed(0))
    for maximum, same in (("cell", True), ("batch", False)):
        decoder = model("ForExpressionPrediction", key_maximum=maximum).decoder
        for layer in decoder.layers:
            layer.self_attn.key.weight.mul_(4)
        alone = torch.cat([decoder.run(one)[0] for one in states.split(1)])
        assert torch.allclose(decoder.run(states)[0], alone, atol=1e-5) == same
    for padding, same in ((False, True), (True, False)):
        labels = model("ForSequenceClassification", pool_padding=padding)
        # The padding of the shortest cell stands out.
        labels.scfoundation.value_embedding.padding.fill_(5)
        row = int(batch["attention_mask"].sum(1).argmin())
        alone = labels(**EXAMPLE.inputs("ScFoundationModel", [row])).logits[0]
        assert torch.allclose(labels(**batch).logits[row], alone, atol=1e-5) == same


@torch.no_grad()
def test_a_value_is_taken_for_padding_only_on_request(batch: dict[str, torch.Tensor]) -> None:
    marked = {**batch, "values": batch["values"].clone()}
    marked["values"][0, 0] = 103
    plain, quirky = model("Model"), model("Model", mark_by_value=True)
    assert torch.equal(plain(**batch).last_hidden_state, quirky(**batch).last_hidden_state)
    moved = {**marked, "values": marked["values"].clone()}
    moved["values"][0, 0] = 104
    assert not torch.equal(plain(**marked).cell_embedding, plain(**moved).cell_embedding)
    hidden = {**batch, "attention_mask": batch["attention_mask"].clone()}
    hidden["attention_mask"][0, 0] = 0
    others = slice(1, int(batch["attention_mask"][0].sum()))
    torch.testing.assert_close(
        quirky(**marked).last_hidden_state[0, others], plain(**hidden).last_hidden_state[0, others]
    )


def test_projections_are_redrawn_only_in_training_and_on_request(batch: dict[str, torch.Tensor]) -> None:
    for interval, drawn in ((None, False), (2, True)):
        whole = model("ForExpressionPrediction", feature_redraw_interval=interval)
        before = whole.decoder.layers[0].self_attn.projection.clone()
        for _ in range(3):
            whole(**batch)
        assert torch.equal(whole.decoder.layers[0].self_attn.projection, before)
        whole.train()
        for _ in range(2):
            whole(**batch)
        assert torch.equal(whole.decoder.layers[0].self_attn.projection, before) != drawn


@torch.no_grad()
def test_decoder_attentions_are_probabilities_over_all_genes(batch: dict[str, torch.Tensor]) -> None:
    whole = model("ForExpressionPrediction")
    given = whole(**batch, output_decoder_attentions=True)
    assert len(given.decoder_attentions) == whole.config.decoder_num_layers
    for attentions in given.decoder_attentions:
        assert attentions.shape == (len(batch["values"]), 2, 62, 62)
        torch.testing.assert_close(attentions.sum(-1), torch.ones(attentions.shape[:3]))
    torch.testing.assert_close(given.predicted_values, whole(**batch).predicted_values)


def test_the_classifier_can_be_trained_as_the_originals(batch: dict[str, torch.Tensor]) -> None:
    labels = model("ForSequenceClassification")
    trained = {name.rpartition(".")[0].removesuffix(".self_attn.qkv") for name in labels.freeze_as_the_original()}
    assert {name.split(".")[0] for name in trained} == {"scfoundation", "classifier"}
    assert all(name.startswith("scfoundation.layers.0") for name in trained if name.startswith("scfoundation"))
    labels.train()
    one = {name: value[:1] for name, value in batch.items()}
    assert labels(**one, labels=torch.tensor([1])).loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_maximum": "head"}, "key_maximum"),
        ({"pooling": "cls"}, "pooling"),
        ({"source_depth_token_id": 7}, "must follow the genes"),
        ({"zero_mask_rate": 3}, "zero_mask_rate"),
        ({"num_attention_heads": 5}, "no multiple"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScFoundationConfig(**{**EXAMPLE.spec.tiny, **options})


def test_inputs_that_are_missing_are_named(batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="input_ids"):
        model("Model")(values=batch["values"])
    with pytest.raises(ValueError, match="values="):
        model("Model")(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="must know the genes"):
        model("ForExpressionPrediction")(values=batch["values"])
