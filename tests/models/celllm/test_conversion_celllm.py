"""From files as CellLM's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from peft import get_peft_model
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError
from scfm_hf.models.celllm.drugs_celllm import CellLMForDrugResponse
from scfm_hf.training import lora_config

if TYPE_CHECKING:
    from pathlib import Path

N_GENES, LENGTH, WIDTH, WIDE, FEATURES = 40, 30, 8, 12, 16
GENES = [f"GENE{number}" for number in range(N_GENES)]
PUBLISHED = {"model": "celllm", "network": {"structure": {"name": "celllm", "max_seq_len": LENGTH}}}


def of_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def body(prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors under the authors' names."""
    layer = {
        "0.norm.weight": (WIDTH,),
        "0.norm.bias": (WIDTH,),
        "0.fn.fast_attention.projection_matrix": (FEATURES, 64),
        **{f"0.fn.to_{part}.weight": (128, WIDTH) for part in "qkv"},
        "0.fn.to_out.weight": (WIDTH, 128),
        "0.fn.to_out.bias": (WIDTH,),
        "1.norm.weight": (WIDTH,),
        "1.norm.bias": (WIDTH,),
        "1.fn.fn.w1.weight": (WIDE, WIDTH),
        "1.fn.fn.w1.bias": (WIDE,),
        "1.fn.fn.w2.weight": (WIDTH, WIDE),
        "1.fn.fn.w2.bias": (WIDTH,),
    }
    made = of_shapes(
        {
            f"{prefix}token_emb.weight": (8, WIDTH),
            f"{prefix}norm.weight": (WIDTH,),
            f"{prefix}norm.bias": (WIDTH,),
            **{
                f"{prefix}performer.net.layers.{number}.{name}": shape
                for number in range(2)
                for name, shape in layer.items()
            },
        }
    )
    table = torch.randn(N_GENES + 2, WIDTH, dtype=torch.float64)
    counter = torch.tensor(17)
    return {**made, f"{prefix}pos_emb.emb.weight": table, f"{prefix}performer.calls_since_last_redraw": counter}


def masked_head(prefix: str = "") -> dict[str, torch.Tensor]:
    return of_shapes({f"{prefix}to_out.weight": (8, WIDTH), f"{prefix}to_out.bias": (8,)})


def classifier(places: int) -> dict[str, torch.Tensor]:
    sizes = {1: (6, places), 4: (5, 6), 7: (3, 5)}
    shapes = {f"pred_head.{number}.weight": shape for number, shape in sizes.items()}
    shapes |= {f"pred_head.{number}.bias": shape[:1] for number, shape in sizes.items()}
    return of_shapes({"conv.weight": (1, 1, 1, WIDTH), "conv.bias": (1,), **shapes})


def write(folder: Path, tensors: dict[str, torch.Tensor], published: Any = PUBLISHED, genes: Any = GENES) -> Path:
    folder.mkdir()
    torch.save({"model_state_dict": tensors}, folder / "ckpt.pth")
    if published is not None:
        (folder / "cellLM.json").write_text(json.dumps(published))
    if genes is not None:
        anndata.AnnData(np.zeros((1, len(genes)), np.float32), var=pd.DataFrame(index=genes)).write_h5ad(
            folder / "zheng68k_hgnc.h5ad"
        )
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write(tmp_path / "original", {**body(), **masked_head()})


def test_the_encoder_is_recognised_and_every_tensor_accounted_for(original: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(original, tmp_path / "converted")
    assert (report.family, report.architecture) == ("celllm", "CellLMForMaskedLM")
    assert [record.source for record in report.tensors if record.target is None] == [
        "performer.calls_since_last_redraw"
    ]
    model, given = AutoModelForMaskedLM.from_pretrained(tmp_path / "converted"), body()
    assert torch.equal(model.celllm.embeddings.genes.weight, given["pos_emb.emb.weight"].float())
    matrix = given["performer.net.layers.1.0.fn.fast_attention.projection_matrix"]
    assert torch.equal(model.celllm.layers[1].self_attn.projection, matrix)
    assert model.config.max_position_embeddings == LENGTH
    assert (model.config.num_attention_heads, model.config.head_dim) == (2, 64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert list(tokenizer.vocabulary.tokens) == [*GENES, "<cls>", "<pad>"]
    assert tokenizer.model_max_length == LENGTH
    assert AutoModel.from_pretrained(tmp_path / "converted").config.num_genes == N_GENES
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "converted").fresh_heads == ("tissue_head",)


@pytest.mark.parametrize(("places", "kind"), [(N_GENES + 1, "scatter"), (LENGTH, "positional")])
def test_the_two_classifiers_are_told_apart_by_their_width(tmp_path: Path, places: int, kind: str) -> None:
    tensors = {**body("encoder."), **masked_head("encoder."), **classifier(places)}
    report = convert_checkpoint(write(tmp_path / "original", tensors), tmp_path / "converted")
    assert report.architecture == "CellLMForSequenceClassification"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted")
    assert (model.config.classifier_type, model.config.num_labels) == (kind, 3)
    assert torch.equal(model.classifier.linears[2].weight, tensors["pred_head.7.weight"])
    # Its encoder serves other classes too.
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "converted").fresh_heads == ("value_head",)


def test_another_classifier_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", {**body("encoder."), **classifier(33)})
    with pytest.raises(CheckpointError, match=r"33 places: neither .* \(41\), nor one a token \(30\)"):
        convert_checkpoint(folder, tmp_path / "converted")


def test_the_drug_response_model_says_its_sizes_by_its_tensors(tmp_path: Path) -> None:
    linears = {"drug_emb.0": (6, 10), "cell_emb.0": (9, N_GENES + 1), "cell_emb.3": (6, 9)}
    linears |= {"regression.0": (7, 12), "regression.3": (7, 7), "regression.6": (1, 7)}
    for number in range(2):
        layer = f"GNN_drug.convs_drug.{number}.nn"
        linears |= {f"{layer}.0": (5, 5 if number else 11), f"{layer}.2": (5, 5)}
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    shapes |= {"cell_encoder.to_out.conv.weight": (1, 1, 1, WIDTH), "cell_encoder.to_out.conv.bias": (1,)}
    shapes |= {f"GNN_drug.convs_drug.{number}.eps": (1,) for number in range(2)}
    tensors = {**body("cell_encoder."), **of_shapes(shapes)}
    for number in range(2):
        norm = nn_batch_norm()
        tensors |= {f"GNN_drug.bns_drug.{number}.{name}": value for name, value in norm.items()}
    published = {"model": "TGDRP", "network": {"cell_encoder": {"name": "celllm", "max_seq_len": LENGTH}}}
    report = convert_checkpoint(write(tmp_path / "original", tensors, published), tmp_path / "converted")
    assert report.architecture == "CellLMForDrugResponse"
    config = CellLMForDrugResponse.from_pretrained(tmp_path / "converted").config
    assert (config.atom_feature_size, config.drug_hidden_size, config.num_drug_layers) == (11, 5, 2)
    assert (config.response_cell_size, config.response_branch_size, config.response_hidden_size) == (9, 6, 7)


def nn_batch_norm() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in torch.nn.BatchNorm1d(5).state_dict().items()}


def test_the_gene_list_is_asked_for_by_name_and_must_fit(tmp_path: Path) -> None:
    tensors, target = {**body(), **masked_head()}, tmp_path / "converted"
    without = write(tmp_path / "without", tensors, genes=None)
    with pytest.raises(CheckpointError, match=r"zheng68k_hgnc\.h5ad .*is missing.*PharMolix/OpenBioMed.*files="):
        convert_checkpoint(without, target)
    with pytest.raises(CheckpointError, match="lists 39 genes, the model has 40"):
        convert_checkpoint(write(tmp_path / "short", tensors, genes=GENES[:-1]), target)
    with pytest.raises(CheckpointError, match=r"genes twice \(first: GENE0\)"):
        convert_checkpoint(without, target, files={"genes": text(tmp_path / "twice.txt", [*GENES[:-1], "GENE0"])})
    assert not target.exists()
    convert_checkpoint(without, target, files={"genes": text(tmp_path / "genes.txt", GENES)})
    assert list(AutoTokenizer.from_pretrained(target).vocabulary.tokens[:N_GENES]) == GENES


def text(path: Path, genes: list[str]) -> Path:
    path.write_text("\n".join(genes) + "\n")
    return path


def test_without_a_configuration_the_gene_table_tells_the_family(tmp_path: Path) -> None:
    folder = write(tmp_path / "original", {**body(), **masked_head()}, published=None)
    np.save(folder / "gene2vec_19379_512.npy", np.zeros((3, 2)))
    report = convert_checkpoint(folder, tmp_path / "converted")
    assert report.family == "celllm"
    assert "6,000 tokens" in report.notes[0]
    convert_checkpoint(folder, tmp_path / "shorter", max_length=25)
    assert AutoTokenizer.from_pretrained(tmp_path / "shorter").model_max_length == 25


def test_damaged_and_foreign_files_are_refused_and_nothing_is_written(original: Path, tmp_path: Path) -> None:
    whole, target = (original / "ckpt.pth").read_bytes(), tmp_path / "converted"
    (original / "ckpt.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        convert_checkpoint(original, target)
    for changed, message in (
        ({"unknown.weight": torch.ones(2)}, "tensors that this family does not have: unknown.weight"),
        ({"performer.net.layers.1.0.fn.to_q.weight": torch.ones(64, WIDTH)}, "query.weight has the shape"),
    ):
        torch.save({"model_state_dict": {**body(), **masked_head(), **changed}}, original / "ckpt.pth")
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(original, target)
    torch.save({"model_state_dict": masked_head()}, original / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"no table of genes \(pos_emb.emb.weight\)"):
        convert_checkpoint(original, target)
    assert not target.exists()


def test_an_adapter_on_a_converted_encoder_learns_real_cells(human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    detected = np.asarray((human_pbmc.X > 0).mean(0)).ravel()
    genes = human_pbmc.var_names[np.argsort(-detected)[40 : 40 + N_GENES]].tolist()
    folder = write(tmp_path / "original", {**body(), **masked_head()}, genes=genes)
    convert_checkpoint(folder, tmp_path / "converted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    dataset = tokenizer.to_dataset(human_pbmc[human_pbmc[:, genes].X.sum(1) > 0], labels="cell_type", min_overlap=0)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted", num_labels=9)
    adapted = get_peft_model(model, lora_config(model, r=4))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_steps=25,
        per_device_train_batch_size=24,
        learning_rate=1e-2,
        seed=0,
    )
    trainer = Trainer(adapted, arguments, train_dataset=dataset, eval_dataset=dataset, processing_class=tokenizer)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.05
