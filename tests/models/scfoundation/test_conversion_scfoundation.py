"""From files as scFoundation's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

GENES = [f"GENE{number}" for number in range(12)]
WIDTH, DECODER, BINS, HEAD = 8, 6, 5, 4


def tensors(n_genes: int = len(GENES)) -> dict[str, torch.Tensor]:
    """Tensors under the authors' names."""

    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    layer, performer = "encoder.transformer_encoder.0.", "decoder.performer.net.layers.0."
    attention = f"{layer}self_attn."
    shapes = {
        **linear("token_emb.mlp", BINS, 1),
        **linear("token_emb.mlp2", BINS, BINS),
        "token_emb.emb.weight": (BINS, WIDTH),
        "token_emb.emb_mask.weight": (1, WIDTH),
        "token_emb.emb_pad.weight": (1, WIDTH),
        "pos_emb.weight": (n_genes + 3, WIDTH),
        f"{attention}in_proj_weight": (3 * WIDTH, WIDTH),
        f"{attention}in_proj_bias": (3 * WIDTH,),
        **linear(f"{attention}out_proj", WIDTH, WIDTH),
        **linear(f"{layer}linear1", 4 * WIDTH, WIDTH),
        **linear(f"{layer}linear2", WIDTH, 4 * WIDTH),
        **norm(f"{layer}norm1", WIDTH),
        **norm(f"{layer}norm2", WIDTH),
        **norm("encoder.norm", WIDTH),
        **linear("decoder_embed", DECODER, WIDTH),
        **norm(f"{performer}0.norm", DECODER),
        f"{performer}0.fn.fast_attention.projection_matrix": (5, HEAD),
        **{
            name: shape
            for part in "qkv"
            for name, shape in linear(f"{performer}0.fn.to_{part}", 2 * HEAD, DECODER).items()
        },
        **linear(f"{performer}0.fn.to_out", DECODER, 2 * HEAD),
        **norm(f"{performer}1.norm", DECODER),
        **linear(f"{performer}1.fn.fn.w1", 4 * DECODER, DECODER),
        **linear(f"{performer}1.fn.fn.w2", DECODER, 4 * DECODER),
        **norm("decoder.norm", DECODER),
        **norm("norm", DECODER),
        **linear("to_final", 1, DECODER),
    }
    made = {f"model.{name}": torch.randn(shape) for name, shape in shapes.items()}
    return {**made, "model.decoder.performer.calls_since_last_redraw": torch.tensor(7)}


def config(**options: Any) -> dict[str, Any]:
    sides = {
        "encoder": {"heads": 2, "module_type": "transformer", "norm_first": False},
        "decoder": {"heads": 2, "module_type": "performer", "norm_first": False},
    }
    of_model = {**sides, "bin_alpha": 0.7, "mask_token_id": 102, "pad_token_id": 103}
    of_data = {"value_mask_prob": 0.3, "zero_mask_prob": 0.03}
    whole = {"model": "mae_autobin", "model_config": {"mae_autobin": of_model}}
    return {**whole, "dataset_config": {"rnaseq": of_data}, **options}


def write(folder: Path, content: Any, genes: list[str] | None = GENES) -> Path:
    (folder / "models").mkdir(parents=True)
    torch.save(content, folder / "models" / "models.ckpt")
    if genes is not None:
        lines = ["gene_name\tindex", *(f"{gene}\t{number}" for number, gene in enumerate(genes))]
        (folder / f"OS_scRNA_gene_index.{len(genes)}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return {key: {"config": config(), "state_dict": tensors()} for key in ("gene", "cell", "rde")}


@pytest.fixture
def original(content: dict[str, Any], tmp_path: Path) -> Path:
    return write(tmp_path / "model", content)


@pytest.mark.parametrize("key", ["cell", "gene", "rde"])
def test_each_of_the_three_models_can_be_chosen(
    original: Path, content: dict[str, Any], tmp_path: Path, key: str
) -> None:
    report = convert_checkpoint(original, tmp_path / "converted", **({} if key == "cell" else {"key": key}))
    assert (report.family, report.architecture) == ("scfoundation", "ScFoundationForExpressionPrediction")
    assert [one.source for one in report.tensors if one.target is None] == ["decoder.performer.calls_since_last_redraw"]
    given = content[key]["state_dict"]
    encoder = AutoModel.from_pretrained(tmp_path / "converted")
    assert torch.equal(encoder.gene_embedding.weight, given["model.pos_emb.weight"])
    assert torch.equal(encoder.value_embedding.mask, given["model.token_emb.emb_mask.weight"][0])
    whole = AutoModelForPreTraining.from_pretrained(tmp_path / "converted")
    stored = given["model.decoder.performer.net.layers.0.0.fn.fast_attention.projection_matrix"]
    assert torch.equal(whole.decoder.layers[0].self_attn.projection, stored)
    assert (whole.config.bin_alpha, whole.config.num_attention_heads, whole.config.decoder_head_size) == (0.7, 2, HEAD)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert list(tokenizer.vocabulary.tokens) == [*GENES, "<target_depth>", "<source_depth>", "<pad>"]
    assert (whole.config.target_depth_token_id, whole.config.pad_token_id) == (12, 14)


def refused(folder: Path, output: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, output, **options)
    assert not output.exists()


def test_a_missing_list_of_genes_is_named_with_where_to_get_it(content: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "model", content, genes=None)
    refused(folder, tmp_path / "out", r"OS_scRNA_gene_index.*12 genes.*biomap-research/scFoundation")


def test_the_released_list_need_not_be_there(content: dict[str, Any], tmp_path: Path) -> None:
    chosen = {"config": config(), "state_dict": tensors(19_264)}
    report = convert_checkpoint(write(tmp_path / "model", {"cell": chosen}, genes=None), tmp_path / "converted")
    assert report.notes == ()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "converted")) == 19_267


def test_a_list_of_another_length_or_order_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    refused(write(tmp_path / "short", content, genes=GENES[:-1]), tmp_path / "out", "lists 11 genes.*the model has 12")
    folder = write(tmp_path / "turned", content)
    path = folder / "OS_scRNA_gene_index.12.tsv"
    path.write_text(path.read_text().replace("GENE3\t3", "GENE3\t4"))
    refused(folder, tmp_path / "out", "does not number them in order")
    path.write_text("symbol\tindex\nA\t0\n")
    refused(folder, tmp_path / "out", "no columns gene_name and index")


def test_a_truncated_checkpoint_is_refused(original: Path, tmp_path: Path) -> None:
    path = original / "models" / "models.ckpt"
    path.write_bytes(path.read_bytes()[:-3000])
    refused(original, tmp_path / "out", "truncated or damaged")


def test_other_checkpoints_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    other = {"state_dict": {"embeddings.weight": torch.ones(3, 2)}, "hyper_parameters": {}}
    refused(write(tmp_path / "other", other), tmp_path / "out", "holds no model 'cell'")
    refused(write(tmp_path / "tensors", tensors()), tmp_path / "out", "holds no model 'cell'")
    content["cell"]["config"] = config(model="mae_bin")
    refused(write(tmp_path / "kind", content), tmp_path / "out", "'mae_bin'")


def test_tensors_that_are_missing_or_strange_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    del content["cell"]["state_dict"]["model.to_final.bias"]
    refused(write(tmp_path / "less", content), tmp_path / "out", r"missing tensor decoder\.out_proj\.bias")
    content["gene"]["state_dict"]["model.extra.weight"] = torch.ones(2)
    refused(write(tmp_path / "more", content), tmp_path / "out", r"extra\.weight", key="gene")


def test_an_unknown_key_is_refused(original: Path, tmp_path: Path) -> None:
    refused(original, tmp_path / "out", "key='cells'.*cell, gene, rde", key="cells")
