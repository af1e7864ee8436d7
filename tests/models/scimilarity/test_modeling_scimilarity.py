"""SCimilarity's encoder and decoder: points on a sphere, from expressed genes or whole profiles alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from models.examples import Case, example_of, results, save_memory
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from scfm_hf.models.registry import families
from scfm_hf.models.released import released_tokenizer
from scfm_hf.models.scimilarity.layers_scimilarity import CellBatchNorm
from scfm_hf.training import freeze, lora_config

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from torch import Tensor

    from scfm_hf.models.scimilarity.modeling_scimilarity import SCimilarityModel
    from scfm_hf.models.scimilarity.pretraining_scimilarity import SCimilarityForPreTraining

ENCODER = Case(example_of("scimilarity"), "SCimilarityModel")
PRETRAINING = Case(example_of("scimilarity"), "SCimilarityForPreTraining")


@pytest.fixture
def encoder() -> SCimilarityModel:
    return ENCODER.model()


@pytest.fixture
def pretraining() -> SCimilarityForPreTraining:
    return PRETRAINING.model()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return ENCODER.inputs()


# ------------------------------------------------------------------------------------------------------------- encoder


def test_embeddings_have_length_one(encoder: SCimilarityModel, batch: dict[str, Tensor]) -> None:
    given = results(encoder, batch)
    assert torch.allclose(given["cell_embedding"].norm(dim=1), torch.ones(len(batch["values"])), atol=1e-6)
    with encoder.embedding_options(pooling="projection"):
        before = results(encoder, batch)["cell_embedding"]
    assert torch.allclose(before / before.norm(dim=1, keepdim=True), given["cell_embedding"], atol=1e-6)
    assert torch.equal(given["latent"], given["cell_embedding"])


def test_whole_profiles_give_the_same_as_expressed_genes(encoder: SCimilarityModel, batch: dict[str, Tensor]) -> None:
    profiles = encoder.profiles(**batch)
    assert profiles.shape == (len(batch["values"]), encoder.config.num_genes)
    of_profiles = encoder(values=profiles).cell_embedding
    assert torch.allclose(of_profiles, encoder(**batch).cell_embedding, atol=1e-5)
    vectors = encoder.embedder.genes(batch["input_ids"])
    rest = {name: value for name, value in batch.items() if name != "input_ids"}
    assert torch.allclose(encoder(inputs_embeds=vectors, **rest).cell_embedding, of_profiles, atol=1e-5)


def test_what_does_not_fit_is_refused(encoder: SCimilarityModel, batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="needs the values"):
        encoder(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="whole profiles, one value for each of the 119 genes"):
        encoder(values=batch["values"])
    with pytest.raises(ValueError, match="not both"):
        encoder(**batch, inputs_embeds=torch.zeros(1))


def test_inner_layers_can_be_embedded(encoder: SCimilarityModel, batch: dict[str, Tensor]) -> None:
    states = encoder(**batch, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [20, 20, 14]
    with encoder.embedding_options(embedding_layer=1):
        found = encoder(**batch).cell_embedding
    assert torch.allclose(found, torch.nn.functional.normalize(states[1], dim=1))


# ----------------------------------------------------------------------------------------------------------- statistics


def test_a_single_cell_can_be_trained_on(pretraining: SCimilarityForPreTraining) -> None:
    """A last batch of one cell would stop the training otherwise."""
    one = PRETRAINING.labelled([0])
    expected = pretraining(**one).loss
    assert torch.allclose(pretraining.train()(**one).loss, expected)


def test_frozen_norms_keep_their_statistics(pretraining: SCimilarityForPreTraining, batch: dict[str, Tensor]) -> None:
    norms = [module for module in pretraining.modules() if isinstance(module, CellBatchNorm)]
    assert len(norms) == 4
    before = [norm.running_mean.clone() for norm in norms]
    pretraining.requires_grad_(False).train()
    expected = pretraining(**batch).predicted_values
    assert torch.equal(expected, pretraining.eval()(**batch).predicted_values)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    pretraining.requires_grad_(True).train()(**batch)
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_gradient_checkpointing_counts_a_batch_once() -> None:
    statistics = []
    for checkpointed in (False, True):
        model = PRETRAINING.model().train()
        if checkpointed:
            save_memory(model)
        model(**PRETRAINING.labelled()).loss.backward()
        statistics.append(model.scimilarity.layers[1].norm.running_mean)
    assert torch.equal(*statistics)


def test_first_layers_can_be_frozen(encoder: SCimilarityModel) -> None:
    names = freeze(encoder, first_layers=1)
    assert "layers.0.norm.weight" in names
    assert not any(name.startswith("layers.1") for name in names)


# -------------------------------------------------------------------------------------------------------------- losses


def test_the_loss_is_the_weighted_sum_of_its_parts(pretraining: SCimilarityForPreTraining) -> None:
    given = PRETRAINING.labelled()
    pretraining.config.triplet_loss_weight, pretraining.config.projection_l1_weight = 0.3, 0.01
    outputs = pretraining(**given)
    parts = outputs.losses
    assert torch.allclose(outputs.loss, 0.3 * parts["triplet"] + 0.7 * parts["reconstruction"] + 0.01 * parts["l1"])
    batch = {name: given[name] for name in ("input_ids", "values", "attention_mask")}
    profiles = pretraining.scimilarity.profiles(**batch)
    assert torch.allclose(parts["reconstruction"], (outputs.predicted_values - profiles).square().mean())
    assert outputs.predicted_values.shape == profiles.shape
    assert (parts["triplet"] > 0) & (outputs.triplet_counts[0] <= outputs.triplet_counts[1])


def test_evaluation_gives_the_same_loss_twice(pretraining: SCimilarityForPreTraining) -> None:
    pretraining.config.triplet_loss_weight, pretraining.config.triplet_margin = 1.0, 0.5
    given = PRETRAINING.labelled()
    assert len({pretraining(**given).loss.item() for _ in range(4)}) == 1


def test_studies_confine_pairs_unless_switched_off(pretraining: SCimilarityForPreTraining) -> None:
    given = PRETRAINING.labelled()
    one_study = torch.zeros(len(given["labels"]), dtype=torch.long)
    assert pretraining(**given, studies=one_study).triplet_counts.tolist() == [0, 0]
    pretraining.config.across_studies = False
    counts = pretraining(**given, studies=one_study).triplet_counts
    assert torch.equal(counts, pretraining(**given).triplet_counts)
    assert counts[1] > 0


def test_ancestors_are_no_negatives(pretraining: SCimilarityForPreTraining) -> None:
    given, config = PRETRAINING.labelled(), pretraining.config
    names = list(config.id2label.values())
    config.label_ancestors = {names[1]: [names[0]], names[2]: names[:2], names[3]: names[:3]}
    assert pretraining(**given).triplet_counts.tolist() == [0, 0]


def test_a_fine_tuned_model_may_have_other_labels_than_the_ontology(tmp_path: Path) -> None:
    config = ENCODER.config(id2label={0: "T cell", 1: "CD4 T cell"}, label_ancestors={"CD4 T cell": ["T cell"]})
    families()["scimilarity"].load_class("SCimilarityModel")(config).save_pretrained(tmp_path / "encoder")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=5)
    model.save_pretrained(tmp_path / "classifier")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").config.num_labels == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(pretraining: SCimilarityForPreTraining, dtype: torch.dtype) -> None:
    given = PRETRAINING.labelled()
    expected = pretraining(**given)
    found = pretraining.to(dtype)(**given)
    assert found.cell_embedding.dtype == dtype
    assert (found.cell_embedding - expected.cell_embedding).abs().max() < 0.05
    assert torch.allclose(found.loss, expected.loss, rtol=0.1)


def test_labels_that_the_model_does_not_know_are_refused(pretraining: SCimilarityForPreTraining) -> None:
    given = PRETRAINING.labelled()
    with pytest.raises(ValueError, match=r"labels holds \[9\]; the model knows 4 labels"):
        pretraining(**{**given, "labels": given["labels"].index_fill(0, torch.tensor([2]), 9)})
    vectors = pretraining.scimilarity.embedder.genes(given.pop("input_ids"))
    with pytest.raises(ValueError, match="needs to know the genes"):
        pretraining(**given, inputs_embeds=vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sizes": []}, "one hidden layer at least"),
        ({"negative_selection": "easiest"}, "easiest"),
        ({"triplet_loss_weight": 2.0}, "no share"),
        ({"num_genes": 500}, "more than vocab_size"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENCODER.config(**options)


def test_an_adapter_learns_the_types_of_real_cells(human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    tokenizer = released_tokenizer("scimilarity")
    dataset = tokenizer.to_dataset(human_pbmc, labels="cell_type")
    sizes = {"vocab_size": len(tokenizer), "num_genes": len(tokenizer) - 1, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = ENCODER.config(**sizes, num_labels=dataset.features["labels"].num_classes, batch_norm_eps=1e-5)
    model = families()["scimilarity"].load_class("SCimilarityForSequenceClassification")(config)
    batch = tokenizer(human_pbmc, padding=True, return_tensors="pt")
    with torch.no_grad():
        # The statistics of a pretrained model are those of cells.
        for _ in range(30):
            model.train()(**batch)
    adapted = get_peft_model(model, lora_config(model))
    arguments = TrainingArguments(
        str(tmp_path), max_steps=30, learning_rate=0.05, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = Trainer(adapted, arguments, train_dataset=dataset, eval_dataset=dataset, processing_class=tokenizer)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.9 * before
