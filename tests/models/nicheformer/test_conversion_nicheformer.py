"""From files as Nicheformer's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

GENES = [f"ENSG{number:011d}" for number in range(40, 55)]
N_TOKENS, CONTEXT, WIDTH, WIDE, N_LAYERS = len(GENES) + 30, 20, 8, 12, 2
OPTIONS = {"n_tokens": N_TOKENS, "nheads": 2, "context_length": CONTEXT, "dropout": 0.0, "learnable_pe": True}
FINE_TUNED = {
    "supervised_task": "niche_classification",
    "extract_layers": [0, 1],
    "function_layers": "mean",
    "n_classes": 5,
    "dim_prediction": 1,
    "without_context": False,
}


def body(prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors under the authors' names."""
    layer = {
        "self_attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "self_attn.in_proj_bias": (3 * WIDTH,),
        "self_attn.out_proj.weight": (WIDTH, WIDTH),
        "self_attn.out_proj.bias": (WIDTH,),
        "linear1.weight": (WIDE, WIDTH),
        "linear1.bias": (WIDE,),
        "linear2.weight": (WIDTH, WIDE),
        "linear2.bias": (WIDTH,),
        **{f"norm{number}.{part}": (WIDTH,) for number in (1, 2) for part in ("weight", "bias")},
    }
    shapes = {
        "embeddings.weight": (N_TOKENS + 5, WIDTH),
        "positional_embedding.weight": (CONTEXT, WIDTH),
        **{f"encoder.layers.{number}.{name}": shape for number in range(N_LAYERS) for name, shape in layer.items()},
        **{f"encoder_layer.{name}": shape for name, shape in layer.items()},
    }
    torch.manual_seed(0)
    return {f"{prefix}{name}": torch.randn(shape) for name, shape in shapes.items()}


def masked_head(prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}classifier_head.weight": torch.randn(N_TOKENS, WIDTH),
        f"{prefix}classifier_head.bias": torch.ones(N_TOKENS),
    }


def lightning(
    folder: Path, tensors: dict[str, torch.Tensor], options: dict[str, Any], name: str = "nicheformer.ckpt"
) -> Path:
    folder.mkdir()
    torch.save({"state_dict": tensors, "hyper_parameters": options, "epoch": 3}, folder / name)
    with_genes(folder)
    np.save(folder / "dissociated_mean_script.npy", np.linspace(0.4, 9, len(GENES)))
    return folder


def with_genes(folder: Path) -> None:
    anndata.AnnData(np.zeros((1, len(GENES)), np.float32), var=pd.DataFrame(index=GENES)).write_h5ad(
        folder / "model.h5ad"
    )


@pytest.fixture
def original(tmp_path: Path) -> Path:
    unused = {
        "pooler_head.weight": torch.ones(WIDTH, WIDTH),
        "cls_head.bias": torch.ones(3),
        "pos": torch.arange(CONTEXT),
    }
    return lightning(tmp_path / "original", {**body(), **masked_head(), **unused}, OPTIONS)


def test_a_lightning_checkpoint_is_recognised_and_every_tensor_accounted_for(original: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(original, tmp_path / "converted")
    assert (report.family, report.architecture) == ("nicheformer", "NicheformerForMaskedLM")
    left_out = {record.source.split(".")[0] for record in report.tensors if record.target is None}
    assert left_out == {"encoder_layer", "pooler_head", "cls_head", "pos"}
    model, given = AutoModel.from_pretrained(tmp_path / "converted"), body()
    assert torch.equal(model.embeddings.word_embeddings.weight, given["embeddings.weight"][:N_TOKENS])
    fused = given["encoder.layers.1.self_attn.in_proj_weight"]
    attention = model.encoder.layer[1].attention.self
    parts = [attention.query.weight, attention.key.weight, attention.value.weight]
    assert torch.equal(torch.cat(parts), fused)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert list(tokenizer.vocabulary.tokens[30:]) == GENES
    assert tokenizer.model_max_length == CONTEXT
    assert np.isnan(tokenizer.statistics["dissociated_mean"][:30]).all()


def test_the_layout_on_the_hub_has_a_configuration_and_a_prefix(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    save_file({**body("nicheformer."), **masked_head()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "nicheformer", **OPTIONS}))
    with_genes(folder)
    report = convert_checkpoint(folder, tmp_path / "converted")
    assert (report.family, report.architecture) == ("nicheformer", "NicheformerForMaskedLM")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").config.num_attention_heads == 2
    assert "technology_mean" in report.notes[0]


def test_the_folder_on_the_hub_of_released_genes_needs_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    tensors = {**body("nicheformer."), **masked_head()}
    for name in ("nicheformer.embeddings.weight", "classifier_head.weight"):
        tensors[name] = torch.randn(20_345 if "embeddings" in name else 20_340, WIDTH)
    tensors["classifier_head.bias"] = torch.zeros(20_340)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "nicheformer", **OPTIONS, "n_tokens": 20_340}))
    report = convert_checkpoint(folder, tmp_path / "converted")
    assert "released model" in report.notes[0]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "converted")) == 20_340


@pytest.mark.parametrize("dense", [False, True])
def test_a_fine_tuned_checkpoint_brings_its_head(tmp_path: Path, dense: bool) -> None:
    head = {"linear_head.weight": torch.randn(5, WIDTH)}
    if dense:
        head |= {"pooler_head.weight": torch.randn(WIDTH, WIDTH), "pooler_head.bias": torch.randn(WIDTH)}
    tensors = {**body("backbone."), **masked_head("backbone."), **head}
    folder = lightning(tmp_path / "original", tensors, FINE_TUNED, "finetuned.ckpt")
    with pytest.raises(CheckpointError, match="num_attention_heads="):
        convert_checkpoint(folder, tmp_path / "converted")
    report = convert_checkpoint(folder, tmp_path / "converted", num_attention_heads=4)
    assert report.architecture == "NicheformerForSequenceClassification"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted")
    assert torch.equal(model.classifier.out_proj.weight, head["linear_head.weight"])
    assert (model.classifier.dense is not None) == dense
    config = model.config
    assert (config.num_labels, config.feature_layers, config.classifier_context) == (5, [1, 2], True)
    assert config.pooling == "padded_mean"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_tokens": N_TOKENS + 1}, r"model\.h5ad has 15 genes, the checkpoint 16"),
        ({"nheads": 3}, "num_attention_heads"),
    ],
)
def test_options_that_do_not_fit_the_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = lightning(tmp_path / "original", {**body(), **masked_head()}, {**OPTIONS, **change})
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_missing_genes_and_wrong_means_are_named(original: Path, tmp_path: Path) -> None:
    np.save(original / "xenium_mean_script.npy", np.ones(3))
    with pytest.raises(CheckpointError, match=r"another number of genes than 15: xenium \(3\)"):
        convert_checkpoint(original, tmp_path / "converted")
    (original / "model.h5ad").unlink()
    with pytest.raises(CheckpointError, match=r"model\.h5ad.*is missing.*15 here.*files=\{'genes'"):
        convert_checkpoint(original, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_task_that_cannot_run_in_the_original_is_refused(tmp_path: Path) -> None:
    tensors = {**body("backbone."), **masked_head("backbone."), "linear_head.weight": torch.randn(1, WIDTH)}
    options = {**FINE_TUNED, "supervised_task": "niche_binary_classification"}
    folder = lightning(tmp_path / "original", tensors, options, "finetuned.ckpt")
    with pytest.raises(CheckpointError, match="niche_binary_classification"):
        convert_checkpoint(folder, tmp_path / "converted", num_attention_heads=2)
