"""Digests of a model's weights, by which two loaded models are told apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

#: Modules that PEFT puts around a base's own: the base's weights lie inside under the same names.
_WRAPPERS = frozenset({"base_layer", "original_module"})
#: Modules of PEFT that hold an adapter's own copies.
_COPIES = frozenset({"modules_to_save", "token_adapter"})


def weights_digest(model: nn.Module, *, without: Collection[str] = ()) -> str:
    """sha256 over names, shapes, dtypes and bytes of a model's weights.

    Parameters
    ----------
    model
        A model, or an adapter over one, whose own parameters do not count: both give the same digest.
    without
        Modules that do not count, named as in PEFT's ``modules_to_save`` (every module whose name ends so).

    Raises
    ------
    CheckpointError
        If a weight is not in memory (a model on the meta device, or offloaded).
    """
    return digest_of_digests(tensor_digests(model, without=without))


def tensor_digests(model: nn.Module, *, without: Collection[str] = ()) -> dict[str, str]:
    """Describe each of a model's weights: name -> dtype, shape and sha256 in one string, in the order of the names.

    The parameters are those of :func:`weights_digest`.
    """
    return dict(sorted((name, _describe(name, tensor)) for name, tensor in _base_weights(model, frozenset(without))))


def digest_of_digests(digests: Mapping[str, str]) -> str:
    """The one digest that stands for all of :func:`tensor_digests`."""
    lines = "".join(f"{name} {description}\n" for name, description in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def differing_weights(
    model: nn.Module, recorded: Mapping[str, str], *, without: Collection[str] = ()
) -> tuple[list[str], bool]:
    """Compare a model's weights with recorded :func:`tensor_digests`.

    A model that was loaded in a wider type than the recorded one is rounded first. One that was loaded in a narrower
    type, or quantised, cannot be compared there.

    Returns
    -------
    Names of the weights that differ or that only one side has, sorted; and whether every weight could be compared.
    """
    weights = dict(_base_weights(model, frozenset(without)))
    integers = ("uint8 ", "int8 ")
    quantised = bool(getattr(model, "is_quantized", False)) or any(
        text.startswith(integers) for text in recorded.values()
    )
    differing, complete = [], not quantised
    for name in sorted(weights.keys() | recorded.keys()):
        if name not in weights or name not in recorded:
            if not quantised:
                differing.append(name)
            continue
        tensor, dtype = weights[name], getattr(torch, recorded[name].split()[0])
        if dtype != tensor.dtype:
            if not (dtype.is_floating_point and tensor.is_floating_point() and dtype.itemsize < tensor.dtype.itemsize):
                complete = False
                continue
            tensor = tensor.to(dtype)
        if _describe(name, tensor) != recorded[name]:
            differing.append(name)
    return differing, complete


def has_weights_of(model: nn.Module, folder: Path) -> bool:
    """Whether a model's weights are, bit for bit, all of those in the safetensors files of a folder, and no others."""
    weights = model.state_dict()
    seen: set[str] = set()
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                if name not in weights or not torch.equal(file.get_tensor(name), weights[name].detach().cpu()):
                    return False
                seen.add(name)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return bool(seen) and set(weights) - seen <= tied


def _base_weights(model: nn.Module, without: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each weight of the base, without those of an adapter over it."""
    adapted: Any = getattr(model, "base_model", None) if hasattr(model, "peft_config") else None
    prefix = getattr(adapted, "prefix", None) or None
    base: nn.Module = model.get_base_model() if adapted is not None else model  # type: ignore[operator]
    for name, tensor in base.state_dict().items():
        parts = name.split(".")
        if not _COPIES.isdisjoint(parts) or (prefix and any(part.startswith(prefix) for part in parts)):
            continue
        parts = [part for part in parts if part not in _WRAPPERS]
        modules = [".".join(parts[:depth]) for depth in range(1, len(parts))]
        if not any(module.endswith(tuple(without)) for module in modules):
            yield ".".join(parts), tensor


def _describe(name: str, tensor: Tensor) -> str:
    """``float32 16x8 <sha256>``."""
    if tensor.is_meta:
        raise CheckpointError(
            f"{name} is not in memory, so its digest cannot be taken. Load the model without offloading."
        )
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape} {hashlib.sha256(data).hexdigest()}"
