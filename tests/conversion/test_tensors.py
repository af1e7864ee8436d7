"""Tensors are read from safetensors, every format of torch, and NumPy files; what is damaged or unsafe is refused."""

from __future__ import annotations

import argparse
import pathlib
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conversion.originals import RunsACommand, cut_off, flip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from scfm_hf.conversion.tensors import read_array, read_checkpoint, state_dict
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

TENSORS = {
    "float": torch.linspace(-1, 1, 6).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False]),
}


def save_archive(content: Any, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


every_torch_format = pytest.mark.parametrize("save", [save_archive, save_legacy])


def equal(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)


def rewrite_archive(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive anew, with right checksums, its entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


@every_torch_format
def test_tensors_come_back_from_every_format_of_torch(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "model.pt"
    save(TENSORS, path)
    assert equal(read_checkpoint(path), TENSORS)


def test_tensors_come_back_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    assert equal(read_checkpoint(path), TENSORS)


@every_torch_format
def test_parameters_views_and_shared_tensors_come_back(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path, line = tmp_path / "model.pt", torch.arange(10.0)
    save({"parameter": torch.nn.Parameter(line), "view": line[2:5], "turned": line.reshape(2, 5).T}, path)
    read = read_checkpoint(path)
    assert equal(read, {"parameter": line, "view": line[2:5], "turned": line.reshape(2, 5).T})


@every_torch_format
def test_what_training_scripts_leave_beside_the_tensors_is_read_as_plain_data(
    tmp_path: Path, save: Callable[[Any, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("lightning.fabric.utilities.data")
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "last.ckpt"
    content = {
        "state_dict": TENSORS,
        "hyper_parameters": module.AttributeDict(genes=["ENSG1", "ENSG2"], d_model=8),
        "args": argparse.Namespace(lr=1e-3),
        "from": pathlib.PurePosixPath("/data/cells"),
        "loss": np.float64(0.5),
        "curve": np.arange(3),
        "dtype": torch.float16,
        "size": TENSORS["float"].shape,
    }
    save(content, path)
    read = read_checkpoint(path)
    assert equal(state_dict(read, path, "state_dict"), TENSORS)
    assert read["hyper_parameters"] == {"genes": ["ENSG1", "ENSG2"], "d_model": 8}
    assert type(read["hyper_parameters"]) is dict
    assert (read["args"], read["from"]) == ({"lr": 1e-3}, "/data/cells")
    assert (read["loss"], read["dtype"], read["size"]) == (0.5, torch.float16, (2, 3))
    np.testing.assert_array_equal(read["curve"], [0, 1, 2])


@every_torch_format
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    save({"weight": torch.ones(2), "callbacks": {"deep": [RunsACommand(trace)]}}, path)
    with pytest.raises(CheckpointError, match=r"model\.pt asks for (posix|nt)\.system"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_whole_model_instead_of_its_tensors_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "model.pt")


@every_torch_format
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_of_torch_is_named(tmp_path: Path, save: Callable[[Any, Path], None], share: float) -> None:
    path = tmp_path / "model.ckpt"
    save({"weight": torch.ones(1000)}, path)
    cut_off(path, share=share)
    with pytest.raises(CheckpointError, match=r"model\.ckpt.*fetch it again|model\.ckpt.*Fetch it again"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(1000)}, path)
    cut_off(path, share=share)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*truncated or damaged"):
        read_checkpoint(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s.")
    with pytest.raises(CheckpointError, match="not written by torch"):
        read_checkpoint(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_an_archive_is_found_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model.pt"
    torch.save(TENSORS, path)
    flip(path, data.draw(st.integers(0, path.stat().st_size * 8 - 1)))
    try:
        assert equal(read_checkpoint(path), TENSORS)
    except CheckpointError as error:
        assert "model.pt" in str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), save=st.sampled_from([save_legacy, save_file]))
def test_a_flipped_bit_elsewhere_gives_tensors_or_an_error_of_ours(
    tmp_path: Path, data: st.DataObject, save: Callable[[Any, Path], None]
) -> None:
    path = tmp_path / ("model.safetensors" if save is save_file else "model.pt")
    save(TENSORS, path)
    flip(path, data.draw(st.integers(0, path.stat().st_size * 8 - 1)))
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        assert path.name in str(error)


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(500_000)}, path)
    rewrite_archive(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"2,00\d,\d+ bytes from"):
        read_checkpoint(path)


def test_a_tensor_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(4)}, path)
    four, many = b"K\x04t", b"M\x00\x40t"
    rewrite_archive(path, lambda name, content: content.replace(four, many) if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="should have 65,536 bytes and has 16"):
        read_checkpoint(path)


def test_a_legacy_tensor_larger_than_the_file_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_legacy({"weight": torch.ones(4)}, path)
    many = b"\x8a\x06" + (2**42).to_bytes(6, "little")
    path.write_bytes(path.read_bytes().replace(b"K\x04N", many + b"N"))
    with pytest.raises(CheckpointError, match=r"17,592,186,044,416 bytes, and \d+ are there"):
        read_checkpoint(path)


@every_torch_format
def test_a_tensor_that_repeats_its_data_is_refused(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / "model.pt"
    save({"weight": torch.ones(1).expand(10**9)}, path)
    with pytest.raises(CheckpointError, match=r"tensor of \(1000000000,\) made of 4 bytes"):
        read_checkpoint(path)


def test_a_tensor_without_data_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(10, device="meta")}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="meta_tensor"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_safetensors_header_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("keys", [("state_dict",), ("model_state_dict", "state_dict"), ()])
def test_tensors_are_found_under_the_first_key_that_is_there(keys: tuple[str, ...]) -> None:
    content: Any = {keys[-1]: TENSORS, "epoch": 3} if keys else TENSORS
    assert equal(state_dict(content, Path("model.pt"), *keys), TENSORS)


@pytest.mark.parametrize("content", [{}, [], {"epoch": 3}, {"weight": torch.ones(1), "epoch": 3}, torch.ones(2)])
def test_what_holds_no_tensors_by_name_is_refused(content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt holds no mapping of names to tensors"):
        state_dict(content, Path("model.pt"), "state_dict")


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array(3), np.zeros((0, 4), np.float32)])
def test_numpy_files_are_read(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "gene2vec.npy", array)
    np.testing.assert_array_equal(read_array(tmp_path / "gene2vec.npy"), array)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_numpy_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "gene2vec.npy"
    np.save(path, np.ones((100, 100)))
    cut_off(path, share=share)
    with pytest.raises(CheckpointError, match=r"gene2vec\.npy cannot be read"):
        read_array(path)


def test_a_numpy_file_of_objects_is_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / "gene2vec.npy", tmp_path / "trace"
    np.save(path, np.array([RunsACommand(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"gene2vec\.npy cannot be read"):
        read_array(path)
    assert not trace.exists()


def test_a_numpy_file_that_announces_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gene2vec.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
        file.write(b"\0" * 64)
    with pytest.raises(CheckpointError, match=r"gene2vec\.npy cannot be read"):
        read_array(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_checkpoint, read_array):
        with pytest.raises(CheckpointError, match="is missing"):
            read(tmp_path / "model.pt")


def test_every_file_of_the_originals_is_read(golden_dir: Path) -> None:
    endings = {".bin", ".pt", ".pth", ".ckpt", ".torch", ".safetensors"}
    found = [
        path for path in golden_dir.glob("*/*/checkpoint/**/*") if path.suffix in endings and "kNN" not in path.name
    ]
    assert found
    for path in found:
        content = read_checkpoint(path)
        assert isinstance(content, (dict, Tensor)), path
