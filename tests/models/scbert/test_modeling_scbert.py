"""scBERT's model: what a cell's result depends on, its poolings, its attention, its classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from models.examples import Case, example_of, largest_difference, results
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from scfm_hf.models.scbert.configuration_scbert import ScBertConfig
from scfm_hf.models.scbert.masking_scbert import mask_values, masked_accuracy, predicted_values
from scfm_hf.models.scbert.modeling_scbert import ScBertModel
from scfm_hf.tokenization.draws import CellDraws
from scfm_hf.training import lora_config

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from torch import Tensor

EXAMPLE = example_of("scbert")
ENCODER, MASKED, CLASSIFIER = (
    Case(EXAMPLE, f"ScBert{name}") for name in ("Model", "ForMaskedLM", "ForSequenceClassification")
)
ASKED = {"output_hidden_states": True, "output_attentions": True}


def expressed(rows: list[int] | slice = slice(None)) -> dict[str, Tensor]:
    """Cells of different length: the genes that they express."""
    return dict(EXAMPLE.tokenizer(EXAMPLE.cells[rows], genes="expressed", padding=True, return_tensors="pt"))


# ----------------------------------------------------------------------------------------- what a result depends on


@pytest.mark.parametrize("case", [ENCODER, MASKED, CLASSIFIER], ids=lambda case: case.class_name)
def test_cells_of_different_length_give_the_same_alone_as_together(case: Case) -> None:
    model, lengths = case.model(), expressed()["attention_mask"].sum(1)
    assert lengths.min() < lengths.max()
    together = results(model, expressed(), **ASKED)
    for row in range(len(lengths)):
        alone = results(model, expressed([row]), **ASKED)
        cut = {name: together[name][[row]][tuple(map(slice, value.shape))] for name, value in alone.items()}
        assert largest_difference(alone, cut) <= 1e-5


def test_a_cell_depends_on_its_batch_only_with_the_maximum_of_the_batch() -> None:
    batch = ENCODER.inputs()
    one = {name: value[:1] for name, value in batch.items()}
    of_cell, of_batch = (ENCODER.model(key_maximum=name, kernel_epsilon=0.1) for name in ("cell", "batch"))
    assert largest_difference(results(of_cell, one), results(of_batch, one)) <= 1e-6
    alone = results(of_batch, one)["cell_embedding"]
    assert (results(of_batch, batch)["cell_embedding"][:1] - alone).abs().max() > 1e-4
    assert (results(of_cell, batch)["cell_embedding"][:1] - alone).abs().max() <= 1e-6


@pytest.mark.parametrize("case", [ENCODER, CLASSIFIER], ids=lambda case: case.class_name)
def test_the_order_of_the_genes_means_nothing(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    order = torch.cat([torch.randperm(60, generator=torch.Generator().manual_seed(0)), torch.tensor([60])])
    shuffled = {name: value[:, order] for name, value in batch.items()}
    given, expected = results(model, shuffled), results(model, batch)
    for name in {"cell_embedding", "logits"} & expected.keys():
        torch.testing.assert_close(given[name], expected[name], atol=1e-5, rtol=0)


def test_the_embedding_is_the_mean_over_the_genes_or_the_token_behind_them() -> None:
    model, batch = ENCODER.model(), expressed()
    output = results(model, batch)
    with model.embedding_options(pooling="last"):
        last = results(model, batch)["cell_embedding"]
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        states = output["last_hidden_state"][row]
        torch.testing.assert_close(output["cell_embedding"][row], states[: length - 1].mean(0))
        torch.testing.assert_close(last[row], states[length - 1])


def test_genes_and_values_are_both_needed() -> None:
    model, batch = ENCODER.model(), ENCODER.inputs()
    with pytest.raises(ValueError, match="give values="):
        model(batch["input_ids"])
    with pytest.raises(ValueError, match="exactly one"):
        model(values=batch["values"])


@pytest.mark.parametrize(
    "options",
    [
        {"key_maximum": "gene"},
        {"classifier_type": "deep"},
        {"num_values": 2},
        {"feature_redraw_interval": 0},
        {"pooling": "cls"},
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ScBertConfig(**{**ENCODER.spec.tiny, **options})


# ------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("after_residual", [False, True])
def test_received_attention_is_the_mean_of_the_maps(after_residual: bool) -> None:
    model, batch = ENCODER.model(attentions_after_residual=after_residual), expressed()
    received = model.received_attention(**batch)
    maps = torch.stack([value for name, value in results(model, batch, **ASKED).items() if "attentions" in name])
    real = batch["attention_mask"][None, :, None, :, None]
    expected = ((maps * real).sum(3) / real.sum(3)).mean((0, 2))
    torch.testing.assert_close(received, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(received.sum(1), torch.ones(len(received)))


def test_the_originals_attention_is_another_and_the_states_are_not() -> None:
    batch = ENCODER.inputs()
    one, other = (results(ENCODER.model(attentions_after_residual=after), batch, **ASKED) for after in (False, True))
    assert (one["attentions.0"] - other["attentions.0"]).abs().max() > 1e-4
    assert torch.equal(one["last_hidden_state"], other["last_hidden_state"])


def test_a_cell_without_a_token_receives_nothing() -> None:
    batch = expressed()
    batch["attention_mask"][1] = 0
    assert not ENCODER.model().received_attention(**batch)[1].any()


# -------------------------------------------------------------------------------------------------------- training


def test_gene_embeddings_do_not_train_unless_asked(tmp_path: Path) -> None:
    model = MASKED.model()
    model.save_pretrained(tmp_path)
    loaded = MASKED.model_class.from_pretrained(tmp_path).train()
    trainable = MASKED.model_class.from_pretrained(tmp_path, freeze_gene_embeddings=False).train()
    for one, wanted in ((loaded, False), (trainable, True)):
        one(**MASKED.labelled()).loss.backward()
        assert (one.get_input_embeddings().weight.grad is not None) == wanted
        assert one.scbert.embeddings.value_embeddings.weight.grad is not None


def test_directions_are_redrawn_on_request_and_only_in_training() -> None:
    def projections(**options: int) -> list[Tensor]:
        model, seen = ENCODER.model(**options), []
        for training in (False, True, True):
            model.train(training)(**ENCODER.inputs([0]))
            seen.append(model.layers[1].self_attn.projection.clone())
        return seen

    never, every_other = projections(), projections(feature_redraw_interval=2)
    assert torch.equal(never[0], never[2])
    assert torch.equal(every_other[0], every_other[1])
    assert not torch.equal(every_other[1], every_other[2])


def test_some_values_above_zero_are_hidden_and_all_of_those_chosen_are_labelled() -> None:
    values = np.random.default_rng(0).integers(0, 6, (40, 200))
    hidden, labels = mask_values(values, mask_value=6, draws=CellDraws(1), cell_ids=range(40))
    chosen = labels != -100
    assert (chosen.sum(1) == np.ceil(0.15 * (values > 0).sum(1))).all()
    assert (values[chosen] > 0).all()
    assert (labels[chosen] == values[chosen]).all()
    assert (hidden[~chosen] == values[~chosen]).all()
    assert set(np.unique(hidden[chosen & (hidden != values)])) == {6}
    assert 0.85 < (hidden[chosen] == 6).mean() < 0.95


def test_what_is_hidden_in_a_cell_depends_on_that_cell_alone() -> None:
    values = np.random.default_rng(0).integers(0, 6, (4, 50))
    together = mask_values(values, mask_value=6, draws=CellDraws(1), cell_ids=list("abcd"))
    padded = np.pad(values[2:3], ((0, 0), (0, 9)))
    alone = mask_values(padded, mask_value=6, draws=CellDraws(1), cell_ids=["c"])
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one[2], other[0, :50])
    nothing, labels = mask_values(values * 0, mask_value=6, draws=CellDraws(1), cell_ids=list("abcd"))
    assert not nothing.any()
    assert (labels == -100).all()


def test_neither_no_expression_nor_the_mask_is_ever_predicted() -> None:
    logits = torch.tensor([[[9.0, 1, 2, 8], [9, 4, 2, 8], [0, 4, 2, 8]]])
    assert predicted_values(logits).tolist() == [[2, 1, 1]]
    assert masked_accuracy(logits, torch.tensor([[2, 2, -100]])) == 0.5


def test_an_adapter_learns_the_types_of_real_cells(tmp_path: Path, human_pbmc: anndata.AnnData) -> None:
    cells = human_pbmc[:, EXAMPLE.cells.var_names].copy()
    dataset = EXAMPLE.tokenizer.to_dataset(cells, labels="cell_type", empty_cells="keep")
    model = CLASSIFIER.model(num_labels=9, classifier_hidden_size=64, classifier_output_size=32)
    settings = TrainingArguments(
        output_dir=tmp_path,
        max_steps=60,
        per_device_train_batch_size=36,
        learning_rate=3e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    model = get_peft_model(model, lora_config(model, r=4))
    trainer = Trainer(model, settings, train_dataset=dataset, processing_class=EXAMPLE.tokenizer)
    before = trainer.evaluate(dataset)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(dataset)["eval_loss"] < 0.8 * before


# ------------------------------------------------------------------------------------------------------- classifier


def test_the_classifier_is_a_convolution_over_the_states_and_three_layers() -> None:
    model, batch = CLASSIFIER.model(), CLASSIFIER.inputs()
    head = model.classifier
    kernel = torch.nn.Conv2d(1, 1, (1, 16))
    with torch.no_grad():
        kernel.weight.copy_(head.convolution.weight[None, None])
        kernel.bias.copy_(head.convolution.bias)
        states = model.scbert(**batch).last_hidden_state
        hidden = kernel(states[:, None]).relu().flatten(1)
        expected = head.linear3(head.linear2(head.linear1(hidden).relu()).relu())
    torch.testing.assert_close(results(model, batch)["logits"], expected)


def test_without_genes_by_name_the_convolution_needs_all_of_them() -> None:
    model, batch = CLASSIFIER.model(), CLASSIFIER.inputs()
    vectors = model.get_input_embeddings()(batch["input_ids"])
    given = model(inputs_embeds=vectors, values=batch["values"]).logits
    torch.testing.assert_close(given, model(**batch).logits)
    with pytest.raises(ValueError, match="needs all 61 tokens"):
        model(inputs_embeds=vectors[:, :9], values=batch["values"][:, :9])


def test_a_linear_classifier_takes_any_genes() -> None:
    model, batch = CLASSIFIER.model(classifier_type="linear"), expressed()
    embedding = ENCODER.model_class(model.config).eval()
    embedding.load_state_dict(model.scbert.state_dict())
    expected = model.classifier(results(embedding, batch)["cell_embedding"])
    torch.testing.assert_close(results(model, batch)["logits"], expected)


def test_the_released_size_has_as_many_parameters_as_the_original() -> None:
    with torch.device("meta"):
        model = ScBertModel(ScBertConfig())
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    genes = sizes.pop("embeddings.gene_embeddings.weight")
    assert genes == 3_381_400 + 200, "padding has a row of its own here"
    assert sum(sizes.values()) == 5_007_207 - 7 * 201, "without the head of masked values"
