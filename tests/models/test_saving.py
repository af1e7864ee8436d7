"""A model that was saved and loaded is the same model, in whatever way it was saved and loaded."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from models.examples import fill_side_tables, largest_difference, results
from transformers import AutoConfig

from scfm_hf.models.auto import auto_class

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.examples import Case
    from torch import Tensor, nn


@pytest.fixture
def unfilled_memory_is_nan() -> Iterator[None]:
    """Memory that nobody has written holds NaN, so that a forgotten buffer or parameter shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those that are not saved too."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("shard_size", ["1GB", "4KB"])
def test_a_loaded_model_is_bit_for_bit_the_saved_one(case: Case, shard_size: str, tmp_path: Path) -> None:
    model = case.model()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("model-*.safetensors"))) > 1) == (shard_size == "4KB")
    loaded = case.model_class.from_pretrained(tmp_path)
    assert largest_difference(state(loaded), state(model)) == 0
    assert not loaded.training
    batch = case.labelled()
    assert largest_difference(results(loaded, batch), results(model, batch)) == 0


@pytest.mark.usefixtures("unfilled_memory_is_nan")
def test_loading_leaves_nothing_uninitialised(case: Case, saved: Path) -> None:
    """Models are built without memory and filled afterwards: buffers that are not in the file must be filled too."""
    loaded = case.model_class.from_pretrained(saved)
    assert largest_difference(state(loaded), state(case.model())) == 0


@pytest.mark.usefixtures("unfilled_memory_is_nan")
def test_a_head_that_starts_fresh_is_initialised(case: Case, tmp_path: Path) -> None:
    encoder = case.base_class(case.config())
    fill_side_tables(encoder)
    encoder.save_pretrained(tmp_path)
    loaded, made = state(case.model_class.from_pretrained(tmp_path)), state(case.model_class(case.config()))
    assert loaded.keys() == made.keys()
    for name, value in made.items():
        got = loaded[name]
        assert got.isfinite().all() or not value.isfinite().all(), name
        if value.is_floating_point() and len(value.unique()) > 1:
            assert 0 < got.abs().max() <= 20 * value.abs().max(), name
        elif not value.is_floating_point() or name not in dict(
            encoder.named_parameters(prefix=case.model_class.base_model_prefix)
        ):
            assert torch.equal(got, value), name


def test_the_auto_classes_load_it(case: Case, saved: Path) -> None:
    batch = case.inputs()
    expected = results(case.model(), batch)
    for auto_name in case.spec.model_classes:
        if any(case.spec.locate(written)[1] == case.class_name for written in case.spec.classes_of(auto_name)):
            loaded = auto_class(auto_name).from_pretrained(saved)
            assert type(loaded) is case.model_class
            assert largest_difference(results(loaded, batch), expected) == 0


def test_the_encoder_of_any_checkpoint_loads_alone(case: Case, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = case.base_class.from_pretrained(saved)
    whole = case.model()
    body = whole if case.is_base else getattr(whole, whole.base_model_prefix)
    assert largest_difference(state(encoder), state(body)) == 0
    assert "UNEXPECTED" not in caplog.text


def test_the_configuration_comes_back(case: Case, tmp_path: Path) -> None:
    config = case.config()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == case.spec.model_type
    assert "keys_to_ignore_at_inference" not in written


def test_what_trainer_writes_into_a_configuration_opens(case: Case, tmp_path: Path) -> None:
    """The special tokens of its ``processing_class``, whether or not the model has such fields."""
    model = case.model()
    model.config.bos_token_id, model.config.eos_token_id = 1, 2
    model.save_pretrained(tmp_path)
    opened = AutoConfig.from_pretrained(tmp_path)
    assert (opened.bos_token_id, opened.eos_token_id) == (1, 2)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_usual_mode(case: Case, umask: int, tmp_path: Path) -> None:
    model = case.model()
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path, max_shard_size="4KB")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_a_loaded_model_outlives_its_folder(case: Case, saved: Path, tmp_path: Path) -> None:
    """Tables beside the weights stay mapped, whether their file is gone or another model's has its name."""
    loaded, batch = case.model_class.from_pretrained(saved), case.inputs()
    expected = results(case.model(), batch)
    shutil.rmtree(saved)
    for part in ("gone", "replaced"):
        assert largest_difference(results(loaded, batch), expected) == 0
        loaded.save_pretrained(tmp_path / part)
        assert largest_difference(results(case.model_class.from_pretrained(tmp_path / part), batch), expected) == 0
        case.model_class(case.config()).save_pretrained(saved)
    loaded.save_pretrained(saved)
    assert largest_difference(results(case.model_class.from_pretrained(saved), batch), expected) == 0


def test_the_main_process_alone_writes(case: Case, tmp_path: Path) -> None:
    case.model().save_pretrained(tmp_path / "model", is_main_process=False)
    assert not list((tmp_path / "model").glob("*"))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_device_maps(case: Case, device_map: str | dict[str, str], saved: Path) -> None:
    loaded = case.model_class.from_pretrained(saved, device_map=device_map)
    batch = case.inputs()
    assert largest_difference(results(loaded, batch), results(case.model(), batch)) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(case: Case, dtype: torch.dtype, saved: Path) -> None:
    loaded = case.model_class.from_pretrained(saved, dtype=dtype)
    assert {value.dtype for value in loaded.parameters() if value.is_floating_point()} == {dtype}
    batch = case.inputs()
    given = results(loaded, batch)
    for name, value in results(case.model(), batch).items():
        if value.is_floating_point():
            near = torch.nn.functional.cosine_similarity(
                given[name].double().flatten(), value.double().flatten(), dim=0
            )
            assert near > 0.97, name


def test_copies_and_pickles(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    expected = results(model, batch)
    written = io.BytesIO()
    torch.save(model, written)
    written.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(written, weights_only=False)):
        assert largest_difference(results(other, batch), expected) == 0


def test_outputs_pickle(case: Case) -> None:
    """Trainer sends them between processes."""
    with torch.no_grad():
        output = case.model()(**case.inputs())
    back = pickle.loads(pickle.dumps(output))
    assert type(back) is type(output)
    assert back.keys() == output.keys()
