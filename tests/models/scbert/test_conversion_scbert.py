"""From files as scBERT's authors publish them: what does not belong together is named, and nothing is written."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError
from scfm_hf.models.scbert.modeling_scbert import ScBertForMaskedLM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

GENES = [f"GENE{number}" for number in range(30)]
WIDTH, HEADS, HEAD, FEATURES, N = 8, 2, 4, 6, len(GENES)
CLASSES = ["B cell", "NK cell", "T cell"]


def body(*, gene2vec: bool = True) -> dict[str, Tensor]:
    """Tensors under the authors' names."""
    torch.manual_seed(0)
    tensors = {"token_emb.weight": torch.randn(7, WIDTH), "performer.calls_since_last_redraw": torch.tensor(3)}
    if gene2vec:
        tensors["pos_emb.emb.weight"] = torch.randn(N + 1, WIDTH, dtype=torch.float64)
        tensors["pos_emb.emb.weight"][-1] = 0
    for layer in range(2):
        attention, network = (f"performer.net.layers.{layer}.{half}." for half in (0, 1))
        shapes = {
            f"{attention}norm.weight": (WIDTH,),
            f"{attention}norm.bias": (WIDTH,),
            f"{attention}fn.fast_attention.projection_matrix": (FEATURES, HEAD),
            **{f"{attention}fn.to_{part}.weight": (HEADS * HEAD, WIDTH) for part in "qkv"},
            f"{attention}fn.to_out.weight": (WIDTH, HEADS * HEAD),
            f"{attention}fn.to_out.bias": (WIDTH,),
            f"{network}norm.weight": (WIDTH,),
            f"{network}norm.bias": (WIDTH,),
            f"{network}fn.fn.w1.weight": (4 * WIDTH, WIDTH),
            f"{network}fn.fn.w1.bias": (4 * WIDTH,),
            f"{network}fn.fn.w2.weight": (WIDTH, 4 * WIDTH),
            f"{network}fn.fn.w2.bias": (WIDTH,),
        }
        tensors |= {name: torch.randn(shape) for name, shape in shapes.items()}
    return {**tensors, "norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)}


def pretrained(**options: bool) -> dict[str, Tensor]:
    return {**body(**options), "to_out.weight": torch.randn(7, WIDTH), "to_out.bias": torch.randn(7)}


def fine_tuned() -> dict[str, Tensor]:
    shapes = {"conv1": (1, 1, 1, WIDTH), "fc1": (12, N + 1), "fc2": (5, 12), "fc3": (len(CLASSES), 5)}
    head = {f"to_out.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return {**body(), **head, **{f"to_out.{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}}


def write(folder: Path, tensors: dict[str, Tensor], name: str = "panglao_pretrain.pth", **further: Any) -> Path:
    folder.mkdir()
    torch.save({"epoch": 3, "model_state_dict": tensors, **further}, folder / name)
    order = anndata.AnnData(np.zeros((2, N), np.float32))
    order.var_names = GENES
    order.write_h5ad(folder / "panglao_10000.h5ad")
    if name == "finetune_best.pth":
        (folder / "label_dict").write_bytes(pickle.dumps(np.array(CLASSES, object)))
    return folder


def test_a_pretrained_model_is_recognised_and_every_tensor_accounted_for(tmp_path: Path) -> None:
    state = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()
    source = write(tmp_path / "original", pretrained(), optimizer_state_dict=state, losses=0.4)
    report = convert_checkpoint(source, tmp_path / "converted")
    assert (report.family, report.architecture) == ("scbert", "ScBertForMaskedLM")
    assert {record.source for record in report.tensors} == set(pretrained())
    dropped = [record.source for record in report.tensors if record.target is None]
    assert dropped == ["performer.calls_since_last_redraw"]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "converted")
    assert (model.config.num_attention_heads, model.config.head_dim, model.config.num_hidden_layers) == (2, 4, 2)
    genes = model.get_input_embeddings().weight
    assert torch.equal(genes[:-1], pretrained()["pos_emb.emb.weight"].float())
    assert not genes[-1].any(), "padding"
    projection = model.scbert.layers[1].self_attn.projection
    assert torch.equal(projection, pretrained()["performer.net.layers.1.0.fn.fast_attention.projection_matrix"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert list(tokenizer.vocabulary.tokens) == [*GENES, "<cls>", "<pad>"]
    assert (tokenizer.model_max_length, tokenizer.scheme().n_bins) == (N + 1, 5)


def test_cells_go_from_counts_to_vectors(tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "original", pretrained()), tmp_path / "converted")
    tokenizer, model = (cls.from_pretrained(tmp_path / "converted") for cls in (AutoTokenizer, AutoModel))
    cells = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (3, N)).astype(np.float32))
    cells.var_names = GENES
    with torch.no_grad():
        vectors = model(**tokenizer(cells, return_tensors="pt", padding=True)).cell_embedding
    assert vectors.shape == (3, WIDTH)
    assert vectors.isfinite().all()


def test_a_fine_tuned_model_knows_its_classes(tmp_path: Path) -> None:
    source = write(tmp_path / "original", fine_tuned(), "finetune_best.pth")
    report = convert_checkpoint(source, tmp_path / "converted")
    assert report.architecture == "ScBertForSequenceClassification"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted")
    assert model.config.id2label == dict(enumerate(CLASSES))
    (source / "label_dict").unlink()
    report = convert_checkpoint(source, tmp_path / "again")
    assert "No label_dict" in report.notes[0]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").config.id2label[2] == "LABEL_2"


def test_class_names_of_another_model_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "original", fine_tuned(), "finetune_best.pth")
    (source / "label_dict").write_bytes(pickle.dumps(np.array(CLASSES[:2], object)))
    with pytest.raises(CheckpointError, match="names 2 classes, the checkpoint has 3"):
        convert_checkpoint(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_model_without_gene2vec_takes_genes_of_one_bin_for_alike(tmp_path: Path) -> None:
    report = convert_checkpoint(write(tmp_path / "original", pretrained(gene2vec=False)), tmp_path / "converted")
    assert "without gene2vec" in report.notes[0]
    assert report.derived == ("scbert.embeddings.gene_embeddings.weight",)
    model = ScBertForMaskedLM.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        logits = model(torch.arange(N + 1)[None], torch.tensor([[1, 3] * 15 + [0]])).logits[0]
    torch.testing.assert_close(logits[:-1:2], logits[:1].expand(15, -1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("module.", pretrained()),
        ("", {**pretrained(), "performer.proj_updater.calls_since_last_redraw": torch.ones(())}),
    ],
)
def test_files_of_several_gpus_and_of_newer_performers_are_read(
    tmp_path: Path, name: str, content: dict[str, Tensor]
) -> None:
    source = write(tmp_path / "original", {f"{name}{key}": tensor for key, tensor in content.items()}, "mine.pth")
    assert convert_checkpoint(source, tmp_path / "converted").architecture == "ScBertForMaskedLM"


def test_the_gene_order_may_be_a_text_file(tmp_path: Path) -> None:
    source = write(tmp_path / "original", pretrained())
    (source / "panglao_10000.h5ad").unlink()
    (tmp_path / "order.txt").write_text("\n".join(GENES) + "\n")
    convert_checkpoint(source, tmp_path / "converted", files={"genes": tmp_path / "order.txt"})
    assert list(AutoTokenizer.from_pretrained(tmp_path / "converted").vocabulary.gene_tokens) == GENES


def without_genes(source: Path) -> None:
    (source / "panglao_10000.h5ad").unlink()


def other_genes(source: Path) -> None:
    anndata.read_h5ad(source / "panglao_10000.h5ad")[:, :-2].copy().write_h5ad(source / "panglao_10000.h5ad")


def half_a_file(source: Path) -> None:
    path = next(source.glob("*.pth"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_model(source: Path) -> None:
    torch.save({"model_state_dict": {"encoder.weight": torch.ones(2)}}, next(source.glob("*.pth")))


def without_values(source: Path) -> None:
    torch.save({"norm.weight": torch.ones(WIDTH), "norm.bias": torch.ones(WIDTH)}, next(source.glob("*.pth")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_genes, r"panglao_10000\.h5ad is missing.*README of github\.com/TencentAILabHealthcare/scBERT"),
        (other_genes, r"of a model of 30 genes .*, the list has 28"),
        (half_a_file, "truncated or damaged"),
        (another_model, r"tensors that this family does not have: encoder\.weight"),
        (without_values, "it is no scBERT"),
    ],
)
@pytest.mark.parametrize("kind", ["panglao_pretrain.pth", "finetune_best.pth"])
def test_damaged_files_are_refused_and_nothing_is_written(tmp_path: Path, damage: Any, message: str, kind: str) -> None:
    source = write(tmp_path / "original", fine_tuned() if kind == "finetune_best.pth" else pretrained(), kind)
    damage(source)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "converted", family="scbert")
    assert not (tmp_path / "converted").exists()
