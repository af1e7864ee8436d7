"""From a folder as SCimilarity's authors publish it, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from models.scimilarity.originals import GENES, HIDDEN, LABELS, LATENT, ONTOLOGY, network, write
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def by_hand(encoder: dict[str, torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """The original's encoder, written out."""
    for number in range(len(HIDDEN)):
        own = {name.removeprefix(f"network.{number}."): tensor for name, tensor in encoder.items()}
        values = values @ own["1.weight"].T + own["1.bias"]
        values = (values - own["2.running_mean"]) / (own["2.running_var"] + 1e-5).sqrt() * own["2.weight"] + own[
            "2.bias"
        ]
        values = torch.where(values > 0, values, own["3.weight"] * values)
    values = values @ encoder[f"network.{len(HIDDEN)}.weight"].T + encoder[f"network.{len(HIDDEN)}.bias"]
    return values / values.norm(dim=1, keepdim=True)


def test_a_folder_is_recognised_and_every_tensor_taken_over(tmp_path: Path) -> None:
    source, output = write(tmp_path / "original"), tmp_path / "converted"
    report = convert_checkpoint(source, output)
    assert (report.family, report.architecture) == ("scimilarity", "SCimilarityForPreTraining")
    assert all(record.target for record in report.tensors)
    values = torch.rand(3, len(GENES))
    model = AutoModel.from_pretrained(output).eval()
    with torch.no_grad():
        found = model(values=values).cell_embedding
    assert torch.allclose(found, by_hand(network([len(GENES), *HIDDEN, LATENT]), values), atol=1e-5)
    assert (model.embedder.genes.weight[-1] == 0).all()
    assert list(AutoTokenizer.from_pretrained(output).vocabulary.tokens) == [*GENES, "<pad>"]


def test_the_training_options_come_along(tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "original", sample_across_studies=False), tmp_path / "converted")
    config = AutoModelForPreTraining.from_pretrained(tmp_path / "converted").config
    assert list(config.id2label.values()) == LABELS
    assert (config.hidden_dropout_prob, config.input_dropout_prob, config.triplet_margin) == (0.25, 0.125, 0.1)
    assert (config.negative_selection, config.across_studies) == ("hardest", False)
    assert config.label_ancestors is None


def test_an_ontology_says_which_labels_are_no_negatives(tmp_path: Path) -> None:
    source = write(tmp_path / "original")
    (source / "label_ints.csv").write_text('"",0\n0,"CD4 T cell"\n1,"T cell"\n2,"stranger"\n')
    (tmp_path / "small.obo").write_text(ONTOLOGY)
    convert_checkpoint(source, tmp_path / "converted", files={"ontology": tmp_path / "small.obo"})
    assert AutoModel.from_pretrained(tmp_path / "converted").config.label_ancestors == {"CD4 T cell": ["T cell"]}


def test_the_authors_table_of_symbols_names_ensembl_ids(tmp_path: Path) -> None:
    table = tmp_path / "id2symbol.tsv"
    table.write_text("Gene stable ID\tGene name\nENSG1\tCD3D\nENSG2\tCD3D\nENSG3\tnot a gene of the model\n")
    convert_checkpoint(write(tmp_path / "original"), tmp_path / "converted", files={"id2symbol": table})
    assert AutoTokenizer.from_pretrained(tmp_path / "converted").identifiers == {"ENSG1": "CD3D", "ENSG2": "CD3D"}


def test_an_encoder_alone_is_converted_without_the_decoder(tmp_path: Path) -> None:
    report = convert_checkpoint(write(tmp_path / "original", decoder=False), tmp_path / "converted")
    assert report.architecture == "SCimilarityModel"
    assert any("no decoder.ckpt" in note for note in report.notes)


def test_files_of_a_folder_above_are_another_models(tmp_path: Path) -> None:
    above = write(tmp_path / "above")
    inner = write(above / "inner", decoder=False)
    (inner / "hyperparameters.json").unlink()
    report = convert_checkpoint(inner, tmp_path / "converted")
    assert report.architecture == "SCimilarityModel"
    assert AutoModel.from_pretrained(tmp_path / "converted").config.triplet_margin == 0.05


def test_reference_cells_are_pointed_out(tmp_path: Path) -> None:
    source = write(tmp_path / "original")
    (source / "annotation").mkdir()
    report = convert_checkpoint(source, tmp_path / "converted")
    assert any("annotation/ hold reference cells" in note for note in report.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": GENES[:-1]}, "gene list has 9 genes, the first layer of the encoder 10 inputs"),
        ({"genes": [*GENES[:-1], "CD3D"]}, "CD3D more than once"),
        ({"negative_selection": "easiest"}, "easiest"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(write(tmp_path / "original", **change), tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_missing_gene_list_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "original")
    (source / "gene_order.tsv").unlink()
    with pytest.raises(CheckpointError, match=r"gene_order\.tsv is missing.*model's own folder"):
        convert_checkpoint(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("name", ["encoder.ckpt", "decoder.ckpt"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "original")
    whole = (source / name).read_bytes()
    (source / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=name):
        convert_checkpoint(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "original")
    torch.save({"state_dict": {"bert.embeddings.weight": torch.zeros(2, 2)}}, source / "encoder.ckpt")
    with pytest.raises(CheckpointError, match="no encoder of SCimilarity"):
        convert_checkpoint(source, tmp_path / "converted")
    decoder = network([LATENT, *HIDDEN, len(GENES)], decoder=True)
    source = write(tmp_path / "other")
    torch.save({"state_dict": decoder}, source / "decoder.ckpt")
    with pytest.raises(CheckpointError, match="has the shape"):
        convert_checkpoint(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
