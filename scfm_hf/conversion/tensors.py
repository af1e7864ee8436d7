"""Tensors from the files of the originals: safetensors, torch's own format, NumPy; nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scfm_hf.errors import CheckpointError


def read_checkpoint(path: Path) -> Any:
    """Read a file of tensors: a mapping of names to tensors, for most.

    Parameters
    ----------
    path
        ``.safetensors``, or a file that ``torch.save`` wrote (``.bin``, ``.pt``, ``.pth``, ``.ckpt``, ``.torch``).

    Raises
    ------
    CheckpointError
        If it is missing, truncated, damaged, larger inside than outside, or would run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}). It is truncated or damaged: fetch it again.") from error
    _refuse_damaged_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise CheckpointError(
            f"{path} holds more than tensors, and may run code ({reason}). Nothing of it was run. Get the file from its authors again."
        ) from error
    # torch raises many kinds of errors for damaged files.
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). It is truncated or damaged: fetch it again.") from error


def state_dict(content: Any, path: Path, *keys: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, which may stand under one of some keys.

    Parameters
    ----------
    content
        What :func:`read_checkpoint` gave.
    path
        For the message.
    *keys
        Keys to look under, such as ``state_dict`` or ``model_state_dict``; the first that is there.

    Raises
    ------
    CheckpointError
        If there is no mapping of names to tensors.
    """
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no mapping of names to tensors; it is no checkpoint of a model.")
    return {str(name): tensor for name, tensor in content.items()}


def read_array(path: Path) -> NDArray[Any]:
    """Read a NumPy file of numbers.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or holds objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read as an array of numbers ({error}).") from error


def _refuse_damaged_archive(path: Path) -> None:
    """Check a zip archive before torch reads it: whole, its checksums right, and no larger inside than outside."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise CheckpointError(f"{path} is a truncated archive: fetch it again.")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
            # torch stores tensors as they are: an archive that unpacks to more is not its own.
            if inside > path.stat().st_size:
                raise CheckpointError(f"{path} would unpack to {inside:,} bytes from {path.stat().st_size:,}: refused.")
            wrong = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{path} is a damaged archive ({error}): fetch it again.") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {wrong} in it is wrong. Fetch it again.")
