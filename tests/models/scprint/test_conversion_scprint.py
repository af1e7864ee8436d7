"""From files as scPRINT's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from models.scprint.originals import CLASSES, GENES, N_BATCHES, WIDTH, options, tensors, write
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_is_recognised_and_every_tensor_accounted_for(tmp_path: Path) -> None:
    report = convert_checkpoint(write(tmp_path / "original", options(), tensors()), tmp_path / "converted")
    assert (report.family, report.architecture) == ("scprint", "ScPrintForPreTraining")
    assert {record.source for record in report.tensors} == set(tensors())
    beside = {record.source for record in report.tensors if record.target is None}
    assert beside == {"gene_encoder.embedding.weight", "pos_encoder.pe"}
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted")
    config = model.config
    assert dict(zip(config.class_names, config.class_sizes, strict=True)) == CLASSES
    assert config.class_names == list(CLASSES), "the order of the classes is that of their tokens"
    assert config.base_first
    assert config.num_batches == N_BATCHES
    assert config.label_hierarchy == {"cell_type_ontology_term_id": {"4": [0, 1]}}


def test_gene_vectors_and_positions_lie_beside_the_weights(tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "original", options(), tensors()), tmp_path / "converted")
    assert not [name for name in load_file(tmp_path / "converted" / "model.safetensors") if "genes." in name]
    model = AutoModel.from_pretrained(tmp_path / "converted")
    ids = torch.arange(len(GENES) + 1)
    assert torch.equal(model.genes.proteins(ids)[:-1], tensors()["gene_encoder.embedding.weight"])
    assert torch.equal(model.genes.positions(ids)[:-1], tensors()["pos_encoder.pe"][:, 0])
    assert (model.genes(ids[-1:]) == 0).all(), "padding has no vector"
    (tmp_path / "converted" / "gene_vectors.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"gene_vectors\.safetensors is missing"):
        AutoModel.from_pretrained(tmp_path / "converted")


@pytest.mark.parametrize(
    "name", ["gene_encoder.embeddings.weight", "gene_encoder.0.embedding.weight", "gene_encoder.0.embeddings.weight"]
)
def test_every_name_of_the_gene_vectors_is_known(name: str, tmp_path: Path) -> None:
    original = write(tmp_path / "original", options(), tensors(gene_name=name))
    convert_checkpoint(original, tmp_path / "converted")
    model = AutoModel.from_pretrained(tmp_path / "converted")
    assert torch.equal(model.genes.proteins(torch.tensor([3])), tensors()["gene_encoder.embedding.weight"][3:4])


def test_version_two_writes_its_classes_as_names_with_counts_beside_them(tmp_path: Path) -> None:
    second = options(classes=list(CLASSES), label_counts=CLASSES, use_metacell_token=False, num_heads_kv=None)
    convert_checkpoint(write(tmp_path / "original", second, tensors()), tmp_path / "converted")
    config = AutoModel.from_pretrained(tmp_path / "converted").config
    assert config.class_sizes == list(CLASSES.values())
    assert not config.base_first


def test_the_tokenizer_has_the_genes_in_order_with_their_organisms(tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "original", options(), tensors()), tmp_path / "converted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert list(tokenizer.vocabulary.tokens) == [*GENES, "<pad>"]
    assert tokenizer.statistics["taxon"][:-1].tolist() == [9606.0] * 12 + [10090.0] * 8


def test_protein_vectors_that_are_given_must_be_those_of_the_checkpoint(tmp_path: Path) -> None:
    original = write(tmp_path / "original", options(), tensors())
    narrow = tensors()["gene_encoder.embedding.weight"].numpy()
    wide = pd.DataFrame(np.repeat(narrow, 3, axis=1), index=GENES)
    wide.columns = wide.columns.astype(str)
    wide.to_parquet(tmp_path / "vectors.parquet")
    convert_checkpoint(original, tmp_path / "converted", files={"gene_embeddings": tmp_path / "vectors.parquet"})
    (wide + 1).to_parquet(tmp_path / "others.parquet")
    with pytest.raises(CheckpointError, match="other protein vectors"):
        convert_checkpoint(original, tmp_path / "no", files={"gene_embeddings": tmp_path / "others.parquet"})
    wide.iloc[1:].to_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(CheckpointError, match=f"no vector of 1 genes.*{GENES[0]}"):
        convert_checkpoint(original, tmp_path / "no", files={"gene_embeddings": tmp_path / "fewer.parquet"})
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genes": GENES[1:]}, "lists 19 genes, but gene_encoder has 20 rows"),
        ({"organisms": ["NCBITaxon:9606", "NCBITaxon:10090"], "genes": [f"X{gene}" for gene in GENES]}, "organisms"),
        ({"classes": {"sex_ontology_term_id": 2}}, "unexpected tensor class_decoders"),
        ({"nhead": 3}, "must be a multiple"),
        ({"cell_specific_blocks": True}, "has 0 blocks of cells"),
        ({"normalization": "raw"}, "neither 'log' nor 'sum'"),
    ],
)
def test_options_that_do_not_fit_the_tensors_are_named(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    original = write(tmp_path / "original", options(**changes), tensors())
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(original, tmp_path / "converted", family="scprint")
    assert not (tmp_path / "converted").exists()


def test_a_tensor_that_is_missing_or_strange_is_named(tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in tensors().items() if name != "transformer.norm.bias"}
    for number, (weights, name) in enumerate(
        [(fewer, r"scprint\.norm\.bias"), ({**tensors(), "spare": torch.ones(1)}, "spare")]
    ):
        original = write(tmp_path / f"original{number}", options(), weights)
        with pytest.raises(CheckpointError, match=name):
            convert_checkpoint(original, tmp_path / "converted")
    without = {name: tensor for name, tensor in tensors().items() if name != "pos_encoder.pe"}
    with pytest.raises(CheckpointError, match="no pos_encoder"):
        convert_checkpoint(write(tmp_path / "original2", options(), without), tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_checkpoint_without_the_head_of_batches_is_whole(tmp_path: Path) -> None:
    """The original refuses to load it."""
    weights = {name: tensor for name, tensor in tensors().items() if not name.startswith("grad_reverse")}
    convert_checkpoint(write(tmp_path / "original", options(), weights), tmp_path / "converted")
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "converted").batch_discriminator is None


def test_what_is_no_scprint_or_truncated_is_refused(tmp_path: Path) -> None:
    original = write(tmp_path / "original", {"genes": GENES}, {"weight": torch.ones(WIDTH)})
    with pytest.raises(CheckpointError, match=r"is no scPRINT.*huggingface\.co/jkobject/scPRINT"):
        convert_checkpoint(original, tmp_path / "converted", family="scprint")
    whole = write(tmp_path / "whole", options(), tensors()) / "small.ckpt"
    for share in (0.1, 0.6, 0.98):
        (original / "small.ckpt").write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        for family in ("scprint", None):
            with pytest.raises(CheckpointError, match="cannot be read|truncated|no family"):
                convert_checkpoint(original, tmp_path / "converted", family=family)
    assert not (tmp_path / "converted").exists()


def test_one_of_several_checkpoints_must_be_named(tmp_path: Path) -> None:
    original = write(tmp_path / "original", options(), tensors())
    (original / "large-v1.ckpt").write_bytes((original / "small.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match=r"several weights files.*weights="):
        convert_checkpoint(original, tmp_path / "converted")
    convert_checkpoint(original, tmp_path / "converted", weights="small.ckpt")
