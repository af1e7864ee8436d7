"""convert_checkpoint gives a folder that ``from_pretrained`` reads, or an error and nothing at all."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import stat
from typing import TYPE_CHECKING

import pytest
import torch
from conversion.originals import CONFIG, RunsACommand, change_tensors, cut_off, weights_of, write_geneformer
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

from scfm_hf import convert_checkpoint
from scfm_hf.cards import Manifest, SourceFile
from scfm_hf.conversion import TensorRecord, convert
from scfm_hf.conversion.building import build_model
from scfm_hf.conversion.source import SourceFolder
from scfm_hf.errors import CheckpointError
from scfm_hf.models.registry import FamilySpec, families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKENS_FILE = "geneformer/token_dictionary_gc104M.pkl"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A Geneformer as its authors publish it."""
    folder = tmp_path / "original"
    folder.mkdir()
    write_geneformer(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with nothing in it, in which the result may appear."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def test_the_result_is_loaded_by_the_auto_classes_and_gives_the_same_numbers(tmp_path: Path, place: Path) -> None:
    expected_model: BertForMaskedLM = write_geneformer(tmp_path / "original")
    convert_checkpoint(tmp_path / "original", place / "model")
    model = AutoModelForMaskedLM.from_pretrained(place / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    assert model.config.vocabulary_digest == tokenizer.vocabulary_digest
    ids = torch.tensor([[2, 7, 30, 4, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=ids).logits, expected_model(input_ids=ids).logits, atol=1e-5, rtol=1e-5
        )


def test_the_report_accounts_for_every_tensor_and_file(original: Path, place: Path) -> None:
    report = convert_checkpoint(original, place / "model")
    assert (report.family, report.architecture) == ("geneformer", "GeneformerForMaskedLM")
    assert {record.source for record in report.tensors} == set(load_file(weights_of(original)))
    assert report.derived == ()
    saved = load_file(place / "model" / "model.safetensors")
    assert set(saved) == {record.target for record in report.tensors if record.target is not None}
    assert report.n_parameters == sum(tensor.numel() for tensor in saved.values())
    read = {
        "config.json",
        "model.safetensors",
        *(f"geneformer/{path.name}" for path in (original / "geneformer").iterdir()),
    }
    assert {source.name for source in report.sources} == read
    assert set(report.sources) == {SourceFile.of(original / name, name=name) for name in read}


def test_the_report_and_the_manifest_lie_beside_the_weights(original: Path, place: Path) -> None:
    report = convert_checkpoint(original, place / "model")
    written = json.loads((place / "model" / "conversion_report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    manifest = Manifest.read(place / "model")
    assert (manifest.family, manifest.sources) == ("geneformer", report.sources)
    assert manifest.vocabulary_digest == report.vocabulary_digest
    card = (place / "model" / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert all(source.sha256 in card for source in report.sources)


def test_no_file_of_the_result_names_the_place_where_it_was_made(original: Path, place: Path) -> None:
    convert_checkpoint(original, place / "model")
    for path in (place / "model").iterdir():
        assert str(original.parent).encode() not in path.read_bytes(), path.name


def test_the_report_reads_as_a_paragraph(original: Path, place: Path) -> None:
    positions = torch.arange(64).unsqueeze(0)
    change_tensors(original, bert__embeddings__position_ids=positions)
    text = str(convert_checkpoint(original, place / "model"))
    n = len(load_file(weights_of(original)))
    assert "GeneformerForMaskedLM (geneformer)" in text
    assert f"{n - 1} of {n} tensors were taken over." in text
    assert "Left out, positions are counted, not stored: bert.embeddings.position_ids." in text


def test_safetensors_and_files_of_torch_give_the_same_model(original: Path, place: Path) -> None:
    convert_checkpoint(original, place / "one")
    torch.save(load_file(weights_of(original)), original / "pytorch_model.bin")
    weights_of(original).unlink()
    convert_checkpoint(original, place / "other")
    one, other = (load_file(place / name / "model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dictionaries_may_lie_elsewhere(original: Path, place: Path, tmp_path: Path) -> None:
    (original / "geneformer").rename(tmp_path / "dictionaries")
    with pytest.raises(CheckpointError, match="token_dictionary"):
        convert_checkpoint(original, place / "model", family="geneformer")
    convert_checkpoint(
        original, place / "model", family="geneformer", files={"dictionaries": tmp_path / "dictionaries"}
    )


def rename_a_tensor(folder: Path) -> None:
    tensors = load_file(weights_of(folder))
    old = "bert.encoder.layer.1.output.dense.weight"
    change_tensors(folder, **{old: None, "bert.encoder.layer.1.output.dens.weight": tensors[old]})


def write_config(folder: Path, **changes: object) -> None:
    config = {**CONFIG, **changes}
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def harm(folder: Path) -> None:
    (folder / TOKENS_FILE).write_bytes(pickle.dumps({"<cls>": RunsACommand(folder / "trace")}))


def harm_weights(folder: Path) -> None:
    torch.save(load_file(weights_of(folder)) | {"x": RunsACommand(folder / "trace")}, folder / "pytorch_model.bin")
    weights_of(folder).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (
        lambda folder: change_tensors(folder, bert__encoder__layer__0__attention__self__query__bias=None),
        r"missing tensor bert\.encoder\.layer\.0\.attention\.self\.query\.bias",
    ),
    "missing layer": (
        lambda folder: write_config(folder, num_hidden_layers=3),
        r"missing tensor .*layer\.2.*and \d+ more",
    ),
    "renamed tensor": (rename_a_tensor, r"unexpected tensor .*dens\.weight|missing tensor .*dense\.weight"),
    "strange tensor": (
        lambda folder: change_tensors(folder, prior_embedding__weight=torch.ones(3)),
        r"model\.safetensors holds tensors that this family does not have: prior_embedding\.weight",
    ),
    "other shape": (
        lambda folder: change_tensors(folder, bert__encoder__layer__0__output__dense__weight=torch.ones(16, 8)),
        r"output\.dense\.weight has the shape \(16, 8\), the model \(16, 32\)",
    ),
    "values that are not finite": (
        lambda folder: change_tensors(
            folder, bert__encoder__layer__0__output__dense__bias=torch.full((16,), float("nan"))
        ),
        r"output\.dense\.bias holds values that are not finite",
    ),
    "truncated weights": (lambda folder: cut_off(weights_of(folder)), r"model\.safetensors cannot be read"),
    "truncated dictionary": (
        lambda folder: cut_off(folder / TOKENS_FILE),
        r"token_dictionary_gc104M\.pkl cannot be read",
    ),
    "missing dictionary": (
        lambda folder: (folder / TOKENS_FILE.replace("token_dictionary", "gene_median_dictionary")).unlink(),
        r"gene_median_dictionary_gc104M\.pkl is missing",
    ),
    "truncated configuration": (lambda folder: cut_off(folder / "config.json"), r"config\.json cannot be read as JSON"),
    "configuration without a size": (lambda folder: write_config(folder, vocab_size=None), r"'vocab_size' is missing"),
    "other vocabulary": (lambda folder: write_config(folder, vocab_size=99), r"No token dictionary with 99 entries"),
    "dictionary that runs code": (harm, r"token_dictionary_gc104M\.pkl asks for (posix|nt)\.system"),
    "weights that run code": (harm_weights, r"pytorch_model\.bin asks for (posix|nt)\.system"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_leaves_nothing(original: Path, place: Path, damage: str) -> None:
    inflict, message = DAMAGES[damage]
    inflict(original)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(original, place / "model", family="geneformer")
    assert list(place.iterdir()) == []
    assert not (original / "trace").exists()


def test_tensors_that_should_be_one_and_differ_are_refused(original: Path) -> None:
    spec = families()["geneformer"]
    converted = spec.load_conversion().convert(SourceFolder(original))
    shared = converted.tensors["bert.embeddings.word_embeddings.weight"]
    twice = {**converted.tensors, "cls.predictions.decoder.weight": shared.clone()}
    build_model(spec, dataclasses.replace(converted, tensors=twice))
    twice["cls.predictions.decoder.weight"] += 1
    with pytest.raises(
        CheckpointError, match=r"decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight"
    ):
        build_model(spec, dataclasses.replace(converted, tensors=twice))


def test_a_tensor_that_is_in_the_report_alone_is_refused(original: Path) -> None:
    spec = families()["geneformer"]
    converted = spec.load_conversion().convert(SourceFolder(original))
    lost = [*converted.records, TensorRecord("bert.extra", "bert.extra.weight")]
    with pytest.raises(CheckpointError, match=r"bert\.extra was renamed bert\.extra\.weight and then lost"):
        build_model(spec, dataclasses.replace(converted, records=lost))


def test_the_family_is_recognised_from_the_files(original: Path, place: Path) -> None:
    assert convert_checkpoint(original, place / "folder").family == "geneformer"
    assert convert_checkpoint(weights_of(original), place / "file").family == "geneformer"


def test_a_folder_of_no_family_is_refused(tmp_path: Path, place: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"notes is of no family that is known.*geneformer"):
        convert_checkpoint(tmp_path / "notes", place / "model")
    with pytest.raises(CheckpointError, match="There is no family 'genefrmer'"):
        convert_checkpoint(tmp_path / "notes", place / "model", family="genefrmer")
    assert list(place.iterdir()) == []


def test_a_damaged_configuration_is_named_when_no_family_recognises_the_rest(original: Path, place: Path) -> None:
    cut_off(original / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        convert_checkpoint(original, place / "model")


def test_files_that_fit_two_families_are_left_to_the_caller(
    original: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = families()["geneformer"]
    conversion = spec.load_conversion()
    monkeypatch.setattr(FamilySpec, "load_conversion", lambda self: conversion)
    monkeypatch.setattr(
        convert, "families", lambda: {"geneformer": spec, "twin": dataclasses.replace(spec, name="twin")}
    )
    with pytest.raises(CheckpointError, match=r"could be of geneformer or twin. Name it with family="):
        convert_checkpoint(original, place / "model")


def test_an_option_that_the_family_does_not_have_is_named(original: Path, place: Path) -> None:
    with pytest.raises(TypeError, match=r"Geneformer has no option vershun. Its options are: version"):
        convert_checkpoint(original, place / "model", vershun="V2")


def test_a_result_that_is_there_stays_unless_it_may_be_replaced(original: Path, place: Path) -> None:
    convert_checkpoint(original, place / "model")
    (place / "model" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(FileExistsError, match="model exists and is not empty"):
        convert_checkpoint(original, place / "model")
    assert (place / "model" / "mine.txt").exists()
    convert_checkpoint(original, place / "model", overwrite=True)
    assert not (place / "model" / "mine.txt").exists()
    assert [path.name for path in place.iterdir()] == ["model"]


def test_a_failed_replacement_leaves_the_old_result(original: Path, place: Path) -> None:
    convert_checkpoint(original, place / "model")
    before = {path.name: path.read_bytes() for path in (place / "model").iterdir()}
    cut_off(weights_of(original))
    with pytest.raises(CheckpointError):
        convert_checkpoint(original, place / "model", overwrite=True)
    assert {path.name: path.read_bytes() for path in (place / "model").iterdir()} == before


def test_the_original_is_never_replaced(original: Path) -> None:
    for output in (original, original.parent):
        with pytest.raises(FileExistsError, match="the original's own files"):
            convert_checkpoint(original, output, overwrite=True)
    assert weights_of(original).exists()


def test_a_folder_of_something_else_is_never_replaced(original: Path, place: Path) -> None:
    (place / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="something other than a model"):
        convert_checkpoint(original, place, overwrite=True)
    assert (place / "thesis.txt").exists()


def test_a_disk_that_fails_half_way_leaves_nothing(
    original: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Manifest, folder: Path) -> None:
        assert (folder / "model.safetensors").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Manifest, "write", full)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(original, place / "model")
    assert list(place.iterdir()) == []


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_every_file_has_the_mode_that_the_umask_gives(original: Path, place: Path, umask: int) -> None:
    convert_checkpoint(original, place / "model")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place / "model").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert stat.S_IMODE((place / "model").stat().st_mode) == 0o777 & ~umask
