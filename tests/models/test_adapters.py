"""Adapters train every parameter that they add, act in evaluation, and come back whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from datasets import Dataset
from models.examples import (
    Case,
    every_class,
    example_of,
    fill_side_tables,
    largest_difference,
    loss_of,
    results,
    save_memory,
)
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from scfm_hf.hub import merge_adapter
from scfm_hf.models.registry import families
from scfm_hf.training import lora_config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

METHODS = ("lora", "dora", "ia3")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def adapt(model: nn.Module, method: str) -> PeftModel:
    """Add an adapter that changes the results, as if it had been trained."""
    adapted = get_peft_model(model, lora_config(model, method=method, **({} if method == "ia3" else {"r": 2})))
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return adapted.eval()


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_parameter_of_an_adapter_gets_a_gradient(case: Case, method: str) -> None:
    adapted = adapt(case.model(), method).train()
    loss_of(adapted, case.labelled()).backward()
    added = trainable(adapted)
    assert any("lora_" in name or "ia3_" in name for name in added)
    without = [
        name for name, parameter in added.items() if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert not without
    assert all(parameter.grad is None for name, parameter in adapted.named_parameters() if name not in added)


def test_every_target_of_the_family_is_adapted(case: Case, method: str) -> None:
    adapted = adapt(case.model(), method)
    wanted = {*case.spec.lora_targets, *(case.spec.lora_feedforward if method == "ia3" else ())}
    for target in wanted:
        assert any(f".{target}.{'ia3' if method == 'ia3' else 'lora'}_" in name for name in trainable(adapted)), target


def test_an_adapter_acts_in_evaluation_as_in_training(case: Case, method: str) -> None:
    """PyTorch's own encoder layer, for one, reads the base weights in evaluation and leaves an adapter out."""
    adapted, batch = adapt(case.model(), method), case.inputs()
    on = results(adapted, batch)
    with adapted.disable_adapter():
        off = results(adapted, batch)
    floats = [name for name, value in on.items() if value.is_floating_point()]
    assert all(not torch.allclose(on[name], off[name], atol=1e-4) for name in floats)
    adapted.train()
    for module in adapted.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    assert largest_difference(results(adapted, batch), on) <= 1e-5


def test_a_merged_adapter_gives_the_same(case: Case, method: str) -> None:
    adapted, batch = adapt(case.model(), method), case.inputs()
    expected = results(adapted, batch)
    merged = merge_adapter(adapted)
    assert type(merged) is case.model_class
    assert largest_difference(results(merged, batch), expected) <= 1e-4


def test_a_loaded_adapter_is_bit_for_bit_the_saved_one(case: Case, method: str, saved: Path, tmp_path: Path) -> None:
    adapted, batch = adapt(case.model_class.from_pretrained(saved), method), case.inputs()
    expected = results(adapted, batch)
    adapted.save_pretrained(tmp_path / "adapter")
    base = case.model_class.from_pretrained(saved)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert largest_difference(results(loaded, batch), expected) == 0


def test_an_adapter_brings_the_heads_that_the_checkpoint_did_not_have(case: Case, method: str, tmp_path: Path) -> None:
    """Left to themselves, adapters keep such a head frozen at random numbers, and other ones after loading."""
    encoder = case.base_class(case.config())
    fill_side_tables(encoder)
    encoder.save_pretrained(tmp_path / "encoder")
    batch = case.inputs()
    torch.manual_seed(1)
    adapted = adapt(case.model_class.from_pretrained(tmp_path / "encoder"), method)
    expected = results(adapted, batch)
    adapted.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(2)
    loaded = PeftModel.from_pretrained(
        case.model_class.from_pretrained(tmp_path / "encoder"), tmp_path / "adapter"
    ).eval()
    assert largest_difference(results(loaded, batch), expected) == 0


@pytest.mark.parametrize(
    "case",
    [case for case in every_class() if case.model_class.supports_gradient_checkpointing],
    ids=lambda case: case.class_name,
)
def test_an_adapter_trains_with_gradient_checkpointing(case: Case) -> None:
    batch, gradients = case.labelled(), []
    for checkpointed in (False, True):
        adapted = adapt(case.model(), "lora").train()
        if checkpointed:
            save_memory(adapted.get_base_model())
        loss_of(adapted, batch).backward()
        gradients.append({name: value.grad / value.grad.abs().max() for name, value in trainable(adapted).items()})
    assert largest_difference(*gradients) <= 1e-5


@pytest.mark.parametrize(
    "name", [name for name, spec in families().items() if "AutoModelForSequenceClassification" in spec.model_classes]
)
def test_an_adapter_learns_real_cells_by_the_stock_trainer(name: str, tmp_path: Path) -> None:
    """The classifier of cells of every family."""
    example = example_of(name)
    written = families()[name].classes_of("AutoModelForSequenceClassification")[0]
    case = Case(example, families()[name].locate(written)[1])
    batch = case.labelled()
    adapted = get_peft_model(case.model(), lora_config(case.model(), r=4))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_steps=20,
        learning_rate=1e-2,
        label_names=["labels"],
    )
    dataset = Dataset.from_dict({key: value.numpy() for key, value in batch.items()})
    run = Trainer(adapted, arguments, train_dataset=dataset, eval_dataset=dataset)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before
