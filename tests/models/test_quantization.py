"""4-bit and 8-bit loading on the CPU, and adapters on top (QLoRA), with the extra ``quantization``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModel, AutoModelForSequenceClassification, BitsAndBytesConfig, set_seed

from scfm_hf.models.registry import families
from scfm_hf.training import lora_config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantization is optional"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KINDS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
    ),
}
INPUTS: dict[str, dict[str, Any]] = {
    "geneformer": {"input_ids": torch.arange(4, 44).reshape(2, 20)},
    "scgpt": {"input_ids": torch.arange(4, 44).reshape(2, 20), "values": torch.arange(40).reshape(2, 20).float()},
}


@pytest.fixture(params=list(INPUTS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    spec = families()[request.param]
    set_seed(0)
    config = spec.load_config_class()(**{**spec.tiny, "hidden_size": 64, "intermediate_size": 128})
    spec.load_class(spec.classes_of("AutoModel")[0])(config).save_pretrained(tmp_path)
    return request.param, tmp_path


@pytest.mark.parametrize("kind", list(KINDS))
def test_quantised_encoder_gives_nearly_the_same_embedding(folder: tuple[str, Path], kind: str) -> None:
    name, path = folder
    whole = AutoModel.from_pretrained(path).eval()
    small = AutoModel.from_pretrained(path, quantization_config=KINDS[kind], device_map="cpu").eval()
    assert any("Linear" in type(module).__name__ and "bit" in type(module).__name__ for module in small.modules())
    with torch.no_grad():
        expected, found = whole(**INPUTS[name]).cell_embedding, small(**INPUTS[name]).cell_embedding
    assert (expected - found).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("kind", list(KINDS))
def test_adapter_on_a_quantised_base_learns(folder: tuple[str, Path], kind: str) -> None:
    name, path = folder
    base = AutoModelForSequenceClassification.from_pretrained(
        path, quantization_config=KINDS[kind], device_map="cpu", num_labels=2
    )
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    model = get_peft_model(base, lora_config(base))
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 1e-2)
    inputs = {**INPUTS[name], "attention_mask": torch.ones(2, 20, dtype=torch.long), "labels": torch.tensor([0, 1])}
    losses = []
    for _ in range(6):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
