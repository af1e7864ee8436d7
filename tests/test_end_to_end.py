"""One cell goes all the way: counts, tokens, model, stock Trainer, hub, and equal predictions in a fresh process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

import scfm_hf
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.registry import families
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.tokenization.statistics import rank_tokenizer
from scfm_hf.training import classification_metrics

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from hub_server.fixtures import RunPython

pytestmark = pytest.mark.hub

#: A fresh process with nothing but the package's name and Auto classes.
PREDICT = """
import json, sys
import anndata, scfm_hf, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
batch = tokenizer(anndata.read_h5ad(sys.argv[2]), return_tensors="pt", padding=True, min_overlap=0.0)
with torch.no_grad():
    print(json.dumps(model(**batch).logits.tolist()))
"""
PREDICT_WITH_ADAPTER = """
import json, sys
import anndata, scfm_hf, torch
from scfm_hf.hub import load_adapter
from transformers import AutoTokenizer
model = load_adapter(sys.argv[1]).eval()
batch = AutoTokenizer.from_pretrained(sys.argv[3])(
    anndata.read_h5ad(sys.argv[2]), return_tensors="pt", padding=True, min_overlap=0.0
)
with torch.no_grad():
    print(json.dumps(model(**batch).logits.tolist()))
"""


def _tokenizer(family: str, cells: anndata.AnnData) -> CellTokenizer:
    if family == "geneformer":
        return rank_tokenizer(cells, gene_column="ensembl_id", min_cells=4, max_length=64)
    special = {"pad": "<pad>", "cls": "<cls>", "eoc": "<eoc>"}
    tokens = [*special.values(), *sorted(set(cells.var_names))]
    vocabulary = GeneVocabulary(tokens, special_tokens=special, id_kind="symbol", species=("human",))
    return CellTokenizer.from_vocabulary(vocabulary, scheme="bin", max_length=64)


def _model(family: str, tokenizer: CellTokenizer, names: list[str]) -> Any:
    spec = families()[family]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "cls")}
    sizes = {**spec.tiny, "vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest, **special}
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    set_seed(0)
    return spec.load_class(spec.classes_of("AutoModelForSequenceClassification")[0])(
        spec.load_config_class()(**sizes, **labels)
    )


def _train(model: Any, tokenizer: CellTokenizer, dataset: Any, folder: Path) -> list[float]:
    """Train for some epochs; the loss of each."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=6,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=classification_metrics,
    )
    trainer.train()
    assert {"eval_accuracy", "eval_macro_f1"} <= set(trainer.evaluate())
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _logits(model: Any, tokenizer: CellTokenizer, cells: anndata.AnnData) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return model(**tokenizer(cells, return_tensors="pt", padding=True, min_overlap=0.0)).logits.numpy()


@pytest.fixture
def cells_file(data_dir: Path) -> Path:
    return data_dir / "human_pbmc.h5ad"


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_model_trained_by_the_stock_trainer_predicts_the_same_after_the_hub(
    family: str, human_pbmc: anndata.AnnData, cells_file: Path, repo_id: str, run_python: RunPython, tmp_path: Path
) -> None:
    tokenizer = _tokenizer(family, human_pbmc)
    dataset = tokenizer.to_dataset(human_pbmc, labels="cell_type", min_overlap=0.0)
    model = _model(family, tokenizer, dataset.features["labels"].names)
    losses = _train(model, tokenizer, dataset, tmp_path)
    assert losses[-1] < losses[0]
    # transformers' own way to push: model and tokenizer one after the other.
    model.push_to_hub(repo_id)
    tokenizer.push_to_hub(repo_id)
    np.testing.assert_array_equal(run_python(PREDICT, repo_id, cells_file), _logits(model, tokenizer, human_pbmc))


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_adapter_alone_goes_to_the_hub_and_comes_back_onto_its_base(
    family: str, human_pbmc: anndata.AnnData, cells_file: Path, repo_id: str, run_python: RunPython, tmp_path: Path
) -> None:
    tokenizer = _tokenizer(family, human_pbmc)
    dataset = tokenizer.to_dataset(human_pbmc, labels="cell_type", min_overlap=0.0)
    fresh = _model(family, tokenizer, dataset.features["labels"].names)
    scfm_hf.push(fresh, repo_id, tokenizer=tokenizer)
    base = type(fresh).from_pretrained(scfm_hf.pull(repo_id))
    adapted = get_peft_model(base, scfm_hf.lora_config(base))
    losses = _train(adapted, tokenizer, dataset, tmp_path)
    assert losses[-1] < losses[0]
    scfm_hf.push(adapted, f"{repo_id}-lora")
    files = [file for file in os.scandir(scfm_hf.pull(f"{repo_id}-lora")) if file.name.endswith(".safetensors")]
    assert [file.name for file in files] == ["adapter_model.safetensors"]
    found = run_python(PREDICT_WITH_ADAPTER, f"{repo_id}-lora", cells_file, repo_id)
    np.testing.assert_allclose(found, _logits(adapted, tokenizer, human_pbmc), atol=1e-6)
