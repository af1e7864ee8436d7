"""Files that ``torch.save`` wrote: looked through first, then read with ``weights_only=True`` and mapped into memory.

The look finds names that may run code, and tensors larger than their part of the file, before torch makes anything.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from scfm_hf.conversion.numpy_pickles import Budget, numpy_constructors, size_of
from scfm_hf.conversion.pickles import forbidden, refuse_bombs
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

#: Number with which files of torch before 1.6 begin; they have no archive.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: Name of a storage -> bytes of an element.
_STORAGES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "UntypedStorage": 1,
}
_ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "_codecs.encode",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.storage.UntypedStorage",
        *(f"torch.{name}" for name in _STORAGES),
        *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
    }
)


class _PlainDict:
    """Stands for the dictionaries with attributes in which Lightning keeps options; gives a plain one."""

    def __new__(cls, *arguments: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return dict(*arguments)


class _Options(dict[str, Any]):
    """Stands for ``argparse.Namespace``: the options of a training script."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state)


def _joined(*parts: str) -> str:
    """Stands for the paths of ``pathlib``, as text."""
    return os.path.join("", *map(str, parts))


#: What stands for harmless objects that training scripts leave in their checkpoints.
_STAND_INS: dict[str, Any] = {
    **{
        f"{module}.AttributeDict": _PlainDict
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "pytorch_lightning.utilities.parsing",
        )
    },
    "argparse.Namespace": _Options,
    **{f"pathlib.{kind}": _joined for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")},
}


def read_torch_file(path: Path) -> Any:
    """Read a file that ``torch.save`` wrote, of any version.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    What was saved. Tensors of an archive are mapped from the file; numbers and arrays of NumPy are kept; the options of
    Lightning and argparse become dictionaries, and paths become text.

    Raises
    ------
    CheckpointError
        If it holds more than this, or is larger inside than outside.
    Exception
        Nearly anything, if it is damaged.
    """
    with path.open("rb") as file:
        archived = file.read(4) == b"PK\x03\x04"
    if archived:
        _survey_archive(path)
    else:
        _survey_legacy_file(path)
    numpy = {".".join(name): made for name, made in numpy_constructors(Budget(path.stat().st_size)).items()}
    with torch.serialization.safe_globals([(made, name) for name, made in (_STAND_INS | numpy).items()]):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archived)
    _refuse_stretched(content, path)
    return content


def _survey_archive(path: Path) -> None:
    """Check an archive: whole, checksums right, stored as it is, and each tensor's bytes all there."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        inside = sum(entry.file_size for entry in entries.values())
        # torch stores tensors as they are: what is packed, or unpacks to more, is not its own.
        if inside > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise CheckpointError(
                f"{path} is packed, as torch never does, or would unpack to more than it holds ({inside:,} bytes from "
                f"{size:,}): refused."
            )
        wrong = archive.testzip()
        if wrong is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {wrong} in it is wrong. Fetch it again.")
        if any(name.endswith("/constants.pkl") for name in entries):
            raise CheckpointError(f"{path} is a TorchScript program, not the tensors of a model: nothing of it is run.")
        pickled = next((name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1), None)
        if pickled is None:
            raise CheckpointError(f"{path} is an archive that torch did not write (no data.pkl).")
        with archive.open(pickled) as file:
            refuse_bombs(file, entries[pickled].file_size, path)
        with archive.open(pickled) as file:
            survey = _Survey(file, path)
            survey.load()
    for key, due in survey.storages.items():
        entry = entries.get(f"{pickled.removesuffix('data.pkl')}data/{key}")
        there = 0 if entry is None else entry.file_size
        if due > there:
            raise CheckpointError(
                f"{path}: the tensor data {key!r} should have {due:,} bytes and has {there:,}. It is damaged."
            )


def _survey_legacy_file(path: Path) -> None:
    """Check a file of torch before 1.6: five pickles, then the tensors' bytes one after the other."""
    size = path.stat().st_size
    storages: dict[str, int] = {}
    with path.open("rb") as file:
        for number in range(5):
            begin = file.tell()
            refuse_bombs(file, size, path)
            file.seek(begin)
            survey = _Survey(file, path)
            content = survey.load()
            if number == 0 and content != _LEGACY_MAGIC:
                raise CheckpointError(f"{path} was not written by torch.save: it is no file of tensors.")
            storages |= survey.storages
        left = size - file.tell()
    due = sum(storages.values())
    if due > left:
        raise CheckpointError(
            f"{path} is truncated: its tensors should have {due:,} bytes, and {left:,} are there. Fetch it again."
        )


class _Survey(pickle.Unpickler):
    """Reads what a pickle of torch says of itself, and makes nothing of it; ``storages`` tells the bytes of each."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path = path
        self._budget = Budget(path.stat().st_size)
        self.storages: dict[str, int] = {}
        self._numpy = {".".join(name) for name in numpy_constructors(self._budget)}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _ALLOWED and full not in _STAND_INS and full not in self._numpy:
            raise forbidden(self._path, module, name)
        size = _STORAGES.get(name) if module.startswith("torch") else None
        return type(name, (_Nothing,), {"budget": self._budget, "element_size": size})

    def persistent_load(self, pid: Any) -> Any:
        # In old files a view of the storage follows.
        mark, kind, key, _, length = pid[:5]
        if mark != "storage" or kind.element_size is None or type(length) is not int or length < 0:
            raise CheckpointError(
                f"{self._path} refers to something other than the data of tensors: torch.save did not write it."
            )
        self.storages[str(key)] = max(length * kind.element_size, self.storages.get(str(key), 0))
        return _Nothing()


class _Nothing:
    """Stands for anything while a pickle is only looked at: takes all that is done to it, and does nothing."""

    budget: Budget | None = None
    element_size: int | None = None

    def __new__(cls, *arguments: Any) -> Self:
        if cls.budget is not None:
            cls.budget.spend(size_of(arguments))
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


def _refuse_stretched(content: Any, path: Path) -> None:
    """Refuse tensors that are larger than the data they have: strides of 0, or no data at all."""
    for tensor in _tensors(content):
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise CheckpointError(
                f"{path} holds a tensor without data of its own ({tensor.device}, {tensor.layout}): refused."
            )
        due, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if due > there:
            raise CheckpointError(f"{path} holds a tensor of {tuple(tensor.shape)} made of {there:,} bytes: refused.")


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, each container once."""
    stack, seen = [content], set()
    while stack:
        found = stack.pop()
        if isinstance(found, Tensor):
            yield found
        elif isinstance(found, (Mapping, list, tuple)) and id(found) not in seen:
            seen.add(id(found))
            stack.extend(found.values() if isinstance(found, Mapping) else found)
