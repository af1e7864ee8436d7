"""Tensors from the files of the originals: safetensors, torch's own format, NumPy; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from scfm_hf.conversion.downloads import refuse_failed_download
from scfm_hf.conversion.torch_files import read_torch_file
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


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
    refuse_failed_download(path)
    try:
        return load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    except CheckpointError:
        raise
    # The readers raise many kinds of errors for damaged files.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({reason}). It is truncated or damaged: fetch it again."
        ) from error


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
    mapping = isinstance(content, Mapping) and len(content) > 0
    if not mapping or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no mapping of names to tensors; it is no checkpoint of a model.")
    return {str(name): tensor for name, tensor in content.items()}


def read_array(path: Path) -> NDArray[Any]:
    """Read a NumPy file of numbers.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or holds objects.
    """
    refuse_failed_download(path)
    try:
        # Mapped, so that a file which promises more than it holds is refused before memory is taken.
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as an array of numbers ({error}). Fetch it again.") from error
