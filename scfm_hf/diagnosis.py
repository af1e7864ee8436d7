"""What ``scfm doctor`` looks at: whether this installation can do what it should."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

_NEEDED = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "huggingface-hub", "peft", "anndata", "numpy")
#: Extra -> module that shows it.
_EXTRAS = {"plots": "umap", "quantization": "bitsandbytes"}


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    is_well: bool


def diagnose() -> list[Check]:
    """Look at everything; nothing is changed and no network is used."""
    import scfm_hf

    checks = [Check("scfm_hf", f"{scfm_hf.__version__}, Python {platform.python_version()}", sys.version_info >= (3, 11))]
    checks += [_package(name) for name in _NEEDED]
    checks.append(_torch())
    checks += [
        Check(f"extra [{name}]", "installed" if importlib.util.find_spec(module) else "not installed", True)
        for name, module in _EXTRAS.items()
    ]
    return [*checks, _cache(), _hub(), _data()]


def _package(name: str) -> Check:
    try:
        return Check(name, version(name), True)
    except PackageNotFoundError:
        return Check(name, "not installed", False)


def _torch() -> Check:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Check("accelerator", str(accelerator or f"none: {torch.get_num_threads()} CPU threads"), True)


def _cache() -> Check:
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    return Check("hub cache", str(place), os.access(existing, os.W_OK))


def _hub() -> Check:
    from huggingface_hub import constants, get_token

    parts = [constants.ENDPOINT, "token set" if get_token() else "no token"]
    parts += ["offline (HF_HUB_OFFLINE)"] if constants.HF_HUB_OFFLINE else []
    return Check("hub", ", ".join(parts), True)


def _data() -> Check:
    """Whether the tables that ship are as they were built."""
    from scfm_hf.data.examples import examples

    folder = files("scfm_hf.data.examples")
    damaged = [
        name
        for name, entry in examples().items()
        if hashlib.sha256((folder / f"{name}.h5ad").read_bytes()).hexdigest() != entry["sha256"]
    ]
    return Check("package data", f"damaged: {', '.join(damaged)}" if damaged else "as built", not damaged)
