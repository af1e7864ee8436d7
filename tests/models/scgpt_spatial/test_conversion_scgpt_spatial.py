"""From files as scGPT-spatial's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError, CompatibilityError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SIZE, WIDE, LAYERS, BATCHES, CLASSES, EXPERTS = 8, 12, 2, 4, 3, 4
GENES = ("CD3D", "LYZ", "MS4A1", "NKG7", "PPBP", "GNLY")
TOKENS = (*GENES, "<pad>", "<cls>", "<eoc>")
ARGUMENTS = {"embsize": SIZE, "nheads": 2, "d_hid": WIDE, "nlayers": LAYERS, "dropout": 0.2, "impute_k": 5}


def linear(name: str, n_out: int, n_in: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(n_out, n_in), f"{name}.bias": torch.randn(n_out)}


def norm(name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.rand(SIZE) + 0.5, f"{name}.bias": torch.randn(SIZE)}


def perceptron(name: str, n_in: int) -> dict[str, Tensor]:
    return {**linear(f"{name}.0", SIZE, n_in), **linear(f"{name}.2", SIZE, SIZE), **linear(f"{name}.4", 1, SIZE)}


def classifier(name: str, n_labels: int) -> dict[str, Tensor]:
    found = linear(f"{name}.out_layer", n_labels, SIZE)
    for layer in range(2):
        found |= {**linear(f"{name}._decoder.{3 * layer}", SIZE, SIZE), **norm(f"{name}._decoder.{3 * layer + 2}")}
    return found


def checkpoint(*, n_tokens: int = len(TOKENS), batches: bool = False, heads: bool = False) -> dict[str, Tensor]:
    """Tensors under the authors' names; with batches as the released file, whose decoders are twice as wide."""
    torch.manual_seed(0)
    told = 2 * SIZE if batches else SIZE
    found = {
        "encoder.embedding.weight": torch.randn(n_tokens, SIZE),
        **norm("encoder.enc_norm"),
        "flag_encoder.weight": torch.randn(2, SIZE),
        **linear("value_encoder.linear1", SIZE, 1),
        **linear("value_encoder.linear2", SIZE, SIZE),
        **norm("value_encoder.norm"),
        **linear("decoder.moe.gate.gate", EXPERTS, told),
    }
    for number in range(LAYERS):
        layer = f"transformer_encoder.layers.{number}"
        found |= {
            **linear(f"{layer}.self_attn.Wqkv", 3 * SIZE, SIZE),
            **linear(f"{layer}.self_attn.out_proj", SIZE, SIZE),
            **linear(f"{layer}.linear1", WIDE, SIZE),
            **linear(f"{layer}.linear2", SIZE, WIDE),
            **norm(f"{layer}.norm1"),
            **norm(f"{layer}.norm2"),
        }
    for number in range(EXPERTS):
        found |= perceptron(f"decoder.moe.experts.{number}.fc", told)
    for name in ("mvc_decoder", "impute_mvc_decoder"):
        found |= {**linear(f"{name}.gene2query", SIZE, SIZE), f"{name}.W.weight": torch.randn(told, SIZE)}
    if batches:
        found |= {"batch_encoder.embedding.weight": torch.randn(BATCHES, SIZE), **norm("batch_encoder.enc_norm")}
    if heads:
        found |= {**classifier("cls_decoder", CLASSES), **classifier("grad_reverse_discriminator", BATCHES)}
    return found


def write(folder: Path, tensors: dict[str, Tensor], tokens: tuple[str, ...] = TOKENS, **arguments: Any) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps({**ARGUMENTS, **arguments}))
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "all_dict_mean_std.csv").write_text(",mean\n0,1.5\n2,0.25\n5,7\n")
    return folder


def test_a_checkpoint_is_recognised_and_every_tensor_accounted_for(tmp_path: Path) -> None:
    given = checkpoint(heads=True)
    report = convert_checkpoint(write(tmp_path / "original", given), tmp_path / "converted")
    assert (report.family, report.architecture) == ("scgpt_spatial", "ScGPTSpatialForPreTraining")
    assert all(record.target for record in report.tensors)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted")
    assert torch.equal(model.decoder.experts[3].value[2].weight, given["decoder.moe.experts.3.fc.2.weight"])
    assert torch.equal(model.neighbour_decoder.weight.weight, given["impute_mvc_decoder.W.weight"])
    assert torch.equal(model.discriminator.linears[1].weight, given["grad_reverse_discriminator._decoder.3.weight"])
    config = model.config
    assert (config.num_neighbours, config.num_labels, config.num_adversarial_labels) == (5, CLASSES, BATCHES)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    means = tokenizer.statistics["gene_mean"]
    assert means[[0, 2, 5]].tolist() == [1.5, 0.25, 7]
    assert np.isnan(means[[1, 3, 4, 6, 7, 8]]).all()


@pytest.mark.parametrize("spelling", ["plain", "distributed", "torch"])
def test_spellings_of_one_checkpoint_give_one_model(tmp_path: Path, spelling: str) -> None:
    given = checkpoint()
    respelt = {
        "plain": given,
        "distributed": {f"module.{name}": tensor for name, tensor in given.items()},
        "torch": {name.replace("Wqkv.", "in_proj_"): tensor for name, tensor in given.items()},
    }[spelling]
    convert_checkpoint(write(tmp_path / "original", respelt), tmp_path / "converted")
    model = AutoModel.from_pretrained(tmp_path / "converted")
    assert torch.equal(
        model.layers[1].self_attn.qkv.weight, given["transformer_encoder.layers.1.self_attn.Wqkv.weight"]
    )


def test_decoders_that_are_told_the_protocol_stay_and_know_its_names(tmp_path: Path) -> None:
    """The original's loader drops them without a word."""
    folder = write(tmp_path / "original", checkpoint(batches=True))
    names = {"merfish": 0, "visium": 1, "visium_hd": 2, "xenium": 3}
    (folder / "batch_mapping_dict.json").write_text(json.dumps(names))
    report = convert_checkpoint(folder, tmp_path / "converted")
    assert all(record.target for record in report.tensors)
    config = AutoConfig.from_pretrained(tmp_path / "converted")
    assert (config.num_batch_labels, config.batch_names) == (BATCHES, list(names))
    (folder / "batch_mapping_dict.json").write_text('{"merfish": 0}')
    with pytest.raises(CheckpointError, match="does not number 4 batches"):
        convert_checkpoint(folder, tmp_path / "again")


def test_a_checkpoint_without_decoders_is_an_encoder(tmp_path: Path) -> None:
    body = {name: tensor for name, tensor in checkpoint().items() if "decoder" not in name}
    report = convert_checkpoint(write(tmp_path / "original", body), tmp_path / "converted")
    assert report.architecture == "ScGPTSpatialModel"


def test_missing_gene_means_are_named_with_where_they_are_to_be_had(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", checkpoint())
    (folder / "all_dict_mean_std.csv").unlink()
    with pytest.raises(CheckpointError, match=r"all_dict_mean_std\.csv is missing.*figshare 28356068.*'gene_means'"):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    report = convert_checkpoint(folder, tmp_path / "converted", means_of_slide=True)
    assert "from the cells given" in report.notes[0]
    assert AutoTokenizer.from_pretrained(tmp_path / "converted").statistics == {}


def test_the_released_vocabulary_needs_no_gene_means_beside_it(tmp_path: Path) -> None:
    from scfm_hf.models.released import released_tokenizer

    tokens = tuple(released_tokenizer("scgpt-spatial-v1").vocabulary.tokens)
    folder = write(tmp_path / "original", checkpoint(n_tokens=len(tokens)), tokens)
    (folder / "all_dict_mean_std.csv").unlink()
    report = convert_checkpoint(folder, tmp_path / "converted")
    assert "released model" in report.notes[0]
    assert np.isfinite(AutoTokenizer.from_pretrained(tmp_path / "converted").statistics["gene_mean"]).sum() == 26_121


def test_special_tokens_that_the_vocabulary_lacks_are_appended(tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "original", checkpoint(), TOKENS[:-1]), tmp_path / "converted")
    assert AutoTokenizer.from_pretrained(tmp_path / "converted").vocabulary.tokens[-1] == "<eoc>"


@pytest.mark.parametrize(
    ("means", "message"),
    [
        (",mean\n0,1.5\n9,1\n", "beyond the 9 tokens"),
        (",mean\n0,1.5\n0,2\n", "names ids twice"),
        (",std\n0,1.5\n", "a column 'mean'"),
        (",mean\n0,0\n", "not above 0"),
        (",mean\nCD3D,1\n", "ids of genes first"),
    ],
)
def test_gene_means_that_cannot_be_are_refused(tmp_path: Path, means: str, message: str) -> None:
    folder = write(tmp_path / "original", checkpoint())
    (folder / "all_dict_mean_std.csv").write_text(means)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", checkpoint(), (*GENES[:4], "<pad>", "<cls>", "<eoc>"))
    with pytest.raises(CheckpointError, match=r"has 7 tokens, the weights 9"):
        convert_checkpoint(folder, tmp_path / "converted")
    whole = (folder / "best_model.pt").read_bytes()
    (folder / "best_model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_an_scgpt_is_refused(tmp_path: Path) -> None:
    others = {name: tensor for name, tensor in checkpoint().items() if not name.startswith(("impute", "decoder.moe"))}
    folder = write(tmp_path / "original", others)
    with pytest.raises(CheckpointError, match=r"neither experts.*family='scgpt'"):
        convert_checkpoint(folder, tmp_path / "converted", family="scgpt_spatial")
    assert not (tmp_path / "converted").exists()


def test_a_tensor_that_no_rule_knows_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", {**checkpoint(), "dsbn.bns.0.running_mean": torch.zeros(SIZE)})
    with pytest.raises(CheckpointError, match=r"dsbn\.bns\.0\.running_mean"):
        convert_checkpoint(folder, tmp_path / "converted")


def test_the_number_of_heads_is_asked_for_where_no_file_says_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", checkpoint())
    (folder / "args.json").unlink()
    with pytest.raises(CheckpointError, match="num_attention_heads="):
        convert_checkpoint(folder, tmp_path / "converted", family="scgpt_spatial")
    convert_checkpoint(folder, tmp_path / "converted", family="scgpt_spatial", num_attention_heads=4)
    assert AutoConfig.from_pretrained(tmp_path / "converted").num_attention_heads == 4


def test_another_family_refuses_the_converted_folder(tmp_path: Path) -> None:
    from scfm_hf.models.scgpt.modeling_scgpt import ScGPTModel

    convert_checkpoint(write(tmp_path / "original", checkpoint()), tmp_path / "converted")
    with pytest.raises(CompatibilityError, match="scfm-scgpt_spatial"):
        ScGPTModel.from_pretrained(tmp_path / "converted")
