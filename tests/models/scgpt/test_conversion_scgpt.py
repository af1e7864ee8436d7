"""scGPT's own files become a folder that the Auto classes load: every spelling, and what only the tensors say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import torch
from models.scgpt import originals
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from scfm_hf import convert_checkpoint
from scfm_hf.conversion import SourceFolder
from scfm_hf.errors import CheckpointError
from scfm_hf.models.auto import AutoModelForExpressionPrediction, AutoModelForPerturbation
from scfm_hf.models.scgpt.conversion_scgpt import recognise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

IDS = torch.tensor([[7, 0, 3, 5]])
VALUES = torch.tensor([[-2.0, 3, 50, 1]])


def converted(folder: Path, tensors: Mapping[str, Tensor], **options: Any) -> Path:
    """Convert by the public call, the family recognised from the files."""
    output = folder / "converted"
    convert_checkpoint(originals.write(folder / "original", dict(tensors), **options), output)
    return output


@pytest.mark.parametrize("spelling", originals.SPELLINGS)
def test_every_spelling_is_the_same_model(spelling: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in originals.released().items() if not name.startswith("mvc")}
    (tmp_path / "plain").mkdir()
    expected = AutoModelForPreTraining.from_pretrained(converted(tmp_path / "plain", tensors))
    got = AutoModelForPreTraining.from_pretrained(converted(tmp_path, originals.respelt(tensors, spelling)))
    assert got.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(got.state_dict()[name], tensor), name


def test_the_layers_compute_what_torchs_own_do(tmp_path: Path) -> None:
    tensors = originals.released()
    model = AutoModel.from_pretrained(converted(tmp_path, tensors))
    layer = torch.nn.TransformerEncoderLayer(originals.SIZE, 2, originals.FEEDFORWARD, batch_first=True)
    theirs = torch.nn.TransformerEncoder(layer, originals.LAYERS, enable_nested_tensor=False).eval()
    prefix = "transformer_encoder."
    theirs.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    with torch.no_grad():
        states = model(IDS, VALUES, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[-1], theirs(states[0]), atol=1e-5, rtol=1e-5)


def test_a_published_file_has_expression_heads_and_can_generate(tmp_path: Path) -> None:
    folder = converted(tmp_path, originals.released())
    config = AutoConfig.from_pretrained(folder)
    assert (config.architectures, config.mvc_style, config.generative) == (
        ["ScGPTForPreTraining"],
        "inner product",
        True,
    )
    assert (config.num_batch_labels, config.num_domains, config.pretraining_classifier) == (0, 0, False)
    output = AutoModelForExpressionPrediction.from_pretrained(folder)(IDS, VALUES)
    assert output.cell_predicted_values.shape == VALUES.shape


def test_fine_tuned_options_are_read_off_the_tensors(tmp_path: Path) -> None:
    folder = converted(tmp_path, originals.fine_tuned())
    config = AutoConfig.from_pretrained(folder)
    assert config.num_batch_labels == config.num_domains == config.num_adversarial_labels == originals.BATCHES
    assert (config.num_labels, config.classifier_layers) == (originals.CLASSES, 3)
    assert config.explicit_zero_probability
    assert config.pretraining_classifier
    output = AutoModelForPreTraining.from_pretrained(folder)(IDS, VALUES, batch_index=torch.tensor([1]))
    logits = AutoModelForSequenceClassification.from_pretrained(folder)(
        IDS, VALUES, batch_index=torch.tensor([1])
    ).logits
    torch.testing.assert_close(logits, output.logits)


@pytest.mark.parametrize(
    ("changes", "style"),
    [
        (
            {
                "value_encoder.embedding.weight": (53, 8),
                "value_encoder.enc_norm.weight": (8,),
                "value_encoder.enc_norm.bias": (8,),
            },
            "category",
        ),
        ({}, "scaling"),
    ],
)
def test_how_values_enter_is_read_off_the_tensors(changes: dict[str, Any], style: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in originals.body().items() if not name.startswith("value_encoder")}
    tensors |= {name: torch.rand(shape) for name, shape in changes.items()}
    config = AutoConfig.from_pretrained(converted(tmp_path, tensors))
    assert config.value_style == style
    assert (config.pad_value, config.mask_value) == ((51, 52) if style == "category" else (-2, -1))


def test_perturbation_models_take_log_normalised_cells_without_cls(tmp_path: Path) -> None:
    folder = converted(tmp_path, originals.perturbation())
    assert AutoConfig.from_pretrained(folder).architectures == ["ScGPTForPerturbation"]
    cells = anndata.AnnData(np.array([[1, 0, 3, 0, 0, 6]], np.float32))
    cells.var_names = list(originals.GENES)
    batch = AutoTokenizer.from_pretrained(folder)(cells, return_tensors="pt", padding=True)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]
    torch.testing.assert_close(batch["values"], torch.log1p(torch.tensor([[1.0, 0, 3, 0, 0, 6]]) * 1000))
    model = AutoModelForPerturbation.from_pretrained(folder)
    flags = torch.tensor([[0, 1, 0, 0, 0, 0]])
    assert model(**batch, perturbation_flags=flags).predicted_values.shape == (1, 6)


def test_modalities_keep_their_names(tmp_path: Path) -> None:
    folder = originals.write(tmp_path / "original", originals.multiomic())
    (folder / "vocab_mod.json").write_text('{"Protein": 0, "RNA": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4}')
    convert_checkpoint(folder, tmp_path / "converted")
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    assert config.num_modalities == 5
    assert config.modality_names == ["Protein", "RNA", "<pad>", "<cls>", "<eoc>"]


@pytest.mark.parametrize(
    "names",
    [
        {"embsize": 8, "nhead": 2, "d_hid": 12, "nlayers": 2, "pad_token_id": 0},
        {"n_embd": 8, "n_head": 2, "n_inner": 12, "n_layer": 2, "padding_idx": 60_694},
    ],
    ids=["copy", "hub branch"],
)
def test_configurations_of_copies_are_understood(names: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"model_type": "scgpt", **names}
    config = AutoConfig.from_pretrained(converted(tmp_path, originals.body(), arguments=arguments, file="config.json"))
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (8, 2, 12)
    assert config.pad_token_id == len(originals.GENES), "the id of <pad> in the vocabulary, whatever the copy says"


def test_special_tokens_that_the_vocabulary_lacks_stand_at_its_end(tmp_path: Path) -> None:
    numbers = {token: number for number, token in enumerate((*originals.GENES, "<pad>"))}
    tokenizer = AutoTokenizer.from_pretrained(converted(tmp_path, originals.body(), vocabulary=numbers))
    assert tokenizer.vocabulary.tokens[-3:] == ("<pad>", "<cls>", "<eoc>")


def test_trouble_is_named_and_nothing_written(tmp_path: Path) -> None:
    output = tmp_path / "converted"
    folder = originals.write(tmp_path / "original", {**originals.released(), "rotary.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"rotary\.weight"):
        convert_checkpoint(folder, output)
    originals.write(folder, {n: t for n, t in originals.released().items() if "layers.1.linear2.bias" not in n})
    with pytest.raises(CheckpointError, match=r"layers\.1\.linear2\.bias"):
        convert_checkpoint(folder, output)
    originals.write(folder, originals.released(), vocabulary={"LYZ": 0, "<pad>": 2})
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        convert_checkpoint(folder, output)
    originals.write(folder, originals.released(), arguments={})
    with pytest.raises(CheckpointError, match="num_attention_heads="):
        convert_checkpoint(folder, output, family="scgpt")
    assert not output.exists()
    convert_checkpoint(folder, output, family="scgpt", num_attention_heads=4)
    assert AutoConfig.from_pretrained(output).num_attention_heads == 4


def test_a_spatial_model_is_not_taken_for_one(tmp_path: Path) -> None:
    folder = originals.write(tmp_path / "original", originals.released())
    assert recognise(SourceFolder(folder))
    (folder / "all_dict_mean_std.csv").write_text(",mean\n0,1.5\n")
    assert not recognise(SourceFolder(folder))


@pytest.mark.parametrize("name", ["impute_mvc_decoder.W.weight", "module.decoder.moe.gate.gate.weight"])
def test_a_spatial_model_without_its_gene_means_is_known_by_its_tensors(tmp_path: Path, name: str) -> None:
    folder = originals.write(tmp_path / "original", {**originals.released(), name: torch.zeros(4, originals.SIZE)})
    assert not recognise(SourceFolder(folder))
