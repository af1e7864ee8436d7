"""From files as CellPLM's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

GENES = [f"ENSG{number:011d}" for number in range(30)]
WIDTH, LATENT = 8, 6


def published(**changes: Any) -> dict[str, Any]:
    """A configuration as the authors write it."""
    known = {"enc_mod": "mlp", "enc_layers": 1, "latent_mod": "ae", "dec_mod": "mlp", "dec_hid": 5, "dec_layers": 1}
    return {**known, "norm": "layernorm", "model_dropout": 0.0, "gene_list": GENES, "lr": 1e-3, **changes}


def weights() -> dict[str, torch.Tensor]:
    """Tensors under the authors' names."""
    shapes = {
        "embedder.feat_enc.emb": (len(GENES), WIDTH),
        "embedder.norm0.weight": (WIDTH,),
        "embedder.extra_linear.0.weight": (WIDTH, WIDTH),
        "embedder.extra_linear.0.bias": (WIDTH,),
        "embedder.extra_linear.3.weight": (WIDTH,),
        "embedder.extra_linear.3.bias": (WIDTH,),
        "encoder.layers.0.0.weight": (WIDTH, WIDTH),
        "encoder.layers.0.0.bias": (WIDTH,),
        "encoder.layers.0.1.weight": (1,),
        "encoder.layers.0.3.weight": (WIDTH,),
        "encoder.layers.0.3.bias": (WIDTH,),
        "pre_latent_norm.norm.weight": (WIDTH,),
        "pre_latent_norm.norm.bias": (WIDTH,),
        "latent.layers.1.lat_2lat.0.weight": (LATENT, WIDTH),
        "latent.layers.1.lat_2lat.0.bias": (LATENT,),
        "decoder.out_layer.0.weight": (len(GENES), LATENT),
        "decoder.out_layer.0.bias": (len(GENES),),
    }
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "small.config.json").write_text(json.dumps(config))
    torch.save({"model_state_dict": tensors}, folder / "small.best.ckpt")
    return folder


def test_a_checkpoint_is_recognised_and_every_tensor_accounted_for(tmp_path: Path) -> None:
    source, output = write(tmp_path / "original", published(), weights()), tmp_path / "converted"
    report = convert_checkpoint(source, output)
    assert (report.family, report.architecture) == ("cellplm", "CellPLMForPreTraining")
    assert {record.source for record in report.tensors} == set(weights())
    assert [record.source for record in report.tensors if record.target is None] == ["embedder.norm0.weight"]
    model = AutoModel.from_pretrained(output)
    assert torch.equal(model.embedder.genes.weight[:-1], weights()["embedder.feat_enc.emb"])
    assert (model.embedder.genes.weight[-1] == 0).all()
    assert list(AutoTokenizer.from_pretrained(output).vocabulary.tokens) == [*GENES, "<pad>"]
    assert AutoModelForPreTraining.from_pretrained(output).config.objective == "recon"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_linear_layers_of_a_head_are_taken_in_order_whatever_their_numbers(tmp_path: Path, dropout: float) -> None:
    """The original numbers them by whether there are dropout layers between."""
    tensors = {name: value for name, value in weights().items() if not name.startswith("decoder.")}
    for number, shape in zip((1, 4) if dropout else (0, 2), ((5, LATENT), (3, 5)), strict=True):
        tensors[f"head.mlp.{number}.weight"] = torch.full(shape, float(shape[0]))
        tensors[f"head.mlp.{number}.bias"] = torch.zeros(shape[0])
    config = published(head_type="annotation", model_dropout=dropout, dec_layers=2)
    report = convert_checkpoint(write(tmp_path / "original", config, tensors), tmp_path / "converted")
    assert report.architecture == "CellPLMForSequenceClassification"
    sources = {record.target: record.source for record in report.tensors}
    assert sources["classifier.linears.1.weight"] == f"head.mlp.{4 if dropout else 2}.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gene_list": GENES[:-1]}, "gene list has 29 genes, the gene embedding 30 rows"),
        ({"head_type": "fortune_telling"}, "fortune_telling"),
        ({"latent_mod": "vae"}, "missing tensor"),
        ({"enc_layers": 2}, r"missing tensor cellplm\.layers\.1"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors = {**weights(), **({"head.mlp.1.weight": torch.ones(2, 2)} if "head_type" in change else {})}
    source = write(tmp_path / "original", published(**change), tensors)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "converted", family="cellplm")
    assert not (tmp_path / "converted").exists()


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "original", published(), weights())
    (source / "small.config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing.*gene list"):
        convert_checkpoint(source, tmp_path / "converted", family="cellplm")
