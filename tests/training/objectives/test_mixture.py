"""Mixtures: weights act linearly, gradients add, and what cannot be is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.training.adapters import lora_config
from scfm_hf.training.objectives import load_objectives, make_objectives, objective_names
from scfm_hf.training.objectives.objective import make_objective

if TYPE_CHECKING:
    from pathlib import Path

    from training.objectives.conftest import Tiny

MIXTURE: dict[str, dict[str, Any]] = {
    "masked_value": {},
    "bottleneck": {},
    "multi_task": {"columns": ["cell_type"]},
    "adversarial_batch": {"column": "cell_type", "reads": "masked_value"},
}


def model_of(tiny: Tiny, described: Any, seed: int = 0) -> tuple[Any, Any]:
    objectives = make_objectives(described, tokenizer=tiny.tokenizer, columns=tiny.columns, seed=seed)
    torch.manual_seed(3)
    return objectives, objectives.model(tiny.encoder())


def gradients(model: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_heads_are_the_family_s_own_where_it_has_some_and_metadata_tokens_share_those_of_masked_genes() -> None:
    config = AutoConfig.for_model("scfm-geneformer")
    for name, options in (("masked_gene", {}), ("metadata_tokens", {"columns": ["condition"]})):
        assert make_objective(name, options).own_class("geneformer", config) == "GeneformerForMaskedLM"
        assert make_objective(name, {**options, "own_head": False}).own_class("geneformer", config) is None
    assert make_objective("masked_value", {}).own_class("geneformer", config) is None


def test_there_is_an_objective_for_each_line_of_the_list() -> None:
    assert set(objective_names()) == {
        "adversarial_batch",
        "binary_expression",
        "bottleneck",
        "contrastive",
        "denoising",
        "generative",
        "masked_gene",
        "masked_value",
        "metadata_tokens",
        "multi_task",
        "next_gene",
        "read_depth",
        "triplets",
    }


def test_weights_act_linearly_and_gradients_add(tiny_scgpt: Tiny) -> None:
    weights = {"masked_value": 0.5, "bottleneck": 2.0, "multi_task": 1.0, "adversarial_batch": 0.25}
    described = {name: {**options, "weight": weights[name]} for name, options in MIXTURE.items()}
    objectives, model = model_of(tiny_scgpt, described)
    batch = objectives.collator(tiny_scgpt.cells())
    output = model(**batch)
    assert output.loss.item() == pytest.approx(sum(weights[name] * one.item() for name, one in output.losses.items()))
    whole, summed = gradients(model, batch), {}
    for name in MIXTURE:
        alone = {**batch, "labels": {name: batch["labels"][name]}}
        for parameter, gradient in gradients(model, alone).items():
            summed[parameter] = summed.get(parameter, 0) + gradient
    assert whole.keys() == summed.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, summed[name], rtol=1e-4, atol=1e-5 * float(gradient.abs().max() + 1))


def test_an_objective_that_looks_at_the_pass_of_another_costs_no_pass(tiny_scgpt: Tiny) -> None:
    objectives, _ = model_of(tiny_scgpt, MIXTURE)
    inputs = objectives.collator(tiny_scgpt.cells())["inputs"]
    assert set(inputs) == {"masked_value", "whole"}


def test_a_family_s_own_head_is_trained_where_the_objective_is_its_own(tiny_geneformer: Tiny) -> None:
    objectives, model = model_of(tiny_geneformer, ["masked_gene"])
    assert model.cls.predictions.decoder.weight is model.encoder.embeddings.word_embeddings.weight
    own = tiny_geneformer.example.spec.load_class("GeneformerForMaskedLM")(model.config)
    own.load_state_dict(model.state_dict(), strict=True)
    batch = objectives.collator(tiny_geneformer.cells())
    loss = own(**batch["inputs"]["masked_gene"], **batch["labels"]["masked_gene"]).loss
    assert loss.item() == model(**batch).loss.item()
    general = make_objectives({"masked_gene": {"own_head": False}}, tokenizer=tiny_geneformer.tokenizer)
    assert list(general.model(tiny_geneformer.encoder()).heads) == ["masked_gene"]


def test_a_pretrained_head_goes_on(tiny_geneformer: Tiny) -> None:
    own = tiny_geneformer.example.spec.load_class("GeneformerForMaskedLM")(tiny_geneformer.encoder().config)
    objectives = make_objectives(["masked_gene"], tokenizer=tiny_geneformer.tokenizer)
    model = objectives.model(own)
    assert model.cls is own.cls
    assert model.encoder is own.bert


def test_missing_labels_do_not_count(tiny_scgpt: Tiny) -> None:
    objectives, model = model_of(tiny_scgpt, {"multi_task": {"columns": ["cell_type"]}})
    cells = tiny_scgpt.cells()
    known = model.eval()(**objectives.collator(cells[:3])).loss.item()
    for missing in (None, float("nan"), -100):
        more = [*cells[:3], *({**cell, "cell_type": missing} for cell in cells[3:])]
        assert model(**objectives.collator(more)).loss.item() == pytest.approx(known, rel=1e-5)
    none = [{**cell, "cell_type": None} for cell in cells]
    assert model(**objectives.collator(none)).loss.item() == 0


def test_a_saved_model_opens_as_an_encoder_and_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    own = "masked_gene" if tiny.example.spec.name == "geneformer" else "masked_value"
    described = {own: {}, "bottleneck": {"weight": 0.5}, "multi_task": {"columns": ["cell_type"]}}
    objectives, model = model_of(tiny, described)
    model.eval().save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    batch = objectives.collator(tiny.cells())
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is type(model.encoder)
    whole = batch["inputs"]["whole"]
    with torch.no_grad():
        torch.testing.assert_close(encoder(**whole).cell_embedding, model.encoder(**whole).cell_embedding)
    again = load_objectives(tmp_path)
    assert again.describe() == objectives.describe()
    assert again.from_pretrained(tmp_path).eval()(**batch).loss.item() == model(**batch).loss.item()
    wider = make_objectives(
        {**described, "bottleneck": {"hidden_size": 8}}, tokenizer=tiny.tokenizer, columns=tiny.columns
    )
    with pytest.raises(CheckpointError, match=r"other heads.*shape"):
        wider.from_pretrained(tmp_path)


def test_an_adapter_trains_the_heads_with_the_encoder(tiny_geneformer: Tiny) -> None:
    from peft import get_peft_model

    described = {"masked_gene": {}, "bottleneck": {}, "multi_task": {"columns": ["cell_type"]}}
    objectives, model = model_of(tiny_geneformer, described)
    adapted = get_peft_model(model, lora_config(model))
    adapted(**objectives.collator(tiny_geneformer.cells())).loss.backward()
    trained = {name for name, one in adapted.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    for part in ("lora_B", "objective_heads.bottleneck", "objective_heads.multi_task", "cls"):
        assert any(part in name for name in trained), part
    assert all("lora" in name or "modules_to_save" in name for name in trained)


# ------------------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("described", "columns", "message"),
    [
        ({"masked_genes": {}}, {}, r"no objective 'masked_genes'.*masked_gene"),
        ({}, {}, "at least one"),
        ({"masked_gene": {"shares": 0.1}}, {}, r"no option 'shares'.*share"),
        ({"masked_gene": {"share": 0.0}}, {}, r"share=0\.0"),
        ({"masked_gene": {"weight": -1}}, {}, "weight"),
        ({"masked_value": {"likelihood": "poisson"}}, {}, "poisson"),
        ({"contrastive": {"view": "noise"}}, {}, "noise"),
        ({"triplets": {}}, {}, r"triplets cannot be made.*column"),
        ({"multi_task": {"columns": ["tissue"]}}, {"cell_type": ["B"]}, r"reads 'tissue'.*Named: 'cell_type'"),
        ({"multi_task": {"columns": "tissue"}}, {"tissue": ["B"]}, "list"),
        ({"triplets": {"column": "a", "reads": "masked_gene"}}, {"a": ["B"]}, "pass of 'masked_gene'"),
    ],
)
def test_what_cannot_be_is_named(tiny_scgpt: Tiny, described: Any, columns: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objectives(described, tokenizer=tiny_scgpt.tokenizer, columns=columns)


@pytest.mark.parametrize(
    ("described", "changes", "message"),
    [
        ({"bottleneck": {}}, {"counts": None}, r"raw counts.*encode=False"),
        ({"multi_task": {"columns": ["cell_type"]}}, {"cell_type": "Neuron"}, r"'Neuron'.*columns="),
        ({"multi_task": {"columns": ["cell_type"]}}, {"cell_type": 99}, "99"),
        ({"masked_gene": {}}, {}, "mask token"),
        ({"bottleneck": {}}, {"gene_ids": np.array([], int), "counts": np.array([])}, "no counts"),
    ],
)
def test_cells_that_do_not_fit_are_named(tiny_scgpt: Tiny, described: Any, changes: Any, message: str) -> None:
    objectives, _ = model_of(tiny_scgpt, described)
    cells = [
        {name: value for name, value in {**cell, **changes}.items() if value is not None}
        for cell in tiny_scgpt.cells()[:2]
    ]
    with pytest.raises(ValueError, match=message):
        objectives.collator(cells)


def test_batches_wait_for_the_model(tiny_scgpt: Tiny) -> None:
    objectives = make_objectives(["masked_value"], tokenizer=tiny_scgpt.tokenizer)
    with pytest.raises(ValueError, match="Make the model first"):
        objectives.collator(tiny_scgpt.cells())


def test_another_vocabulary_is_refused(tiny_scgpt: Tiny) -> None:
    objectives = make_objectives(["masked_value"], tokenizer=tiny_scgpt.tokenizer)
    with pytest.raises(CompatibilityError, match="another vocabulary"):
        objectives.model(tiny_scgpt.encoder(vocabulary_digest="0" * 64))
