"""What ``scfm doctor`` looks at: whether this installation can do what it should."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

_NEEDED = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "peft",
    "accelerate",
    "anndata",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
)


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    is_well: bool


def diagnose() -> list[Check]:
    """Look at everything; nothing is changed and no network is used."""
    import scfm_hf

    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    checks = [Check("scfm_hf", f"{scfm_hf.__version__}, {python}", sys.version_info >= (3, 11))]
    checks += [_package(name) for name in _NEEDED]
    checks.append(_torch())
    return [*checks, *_extras(), _cache(), _hub(), *_data()]


def _package(name: str) -> Check:
    try:
        return Check(name, version(name), True)
    except PackageNotFoundError:
        return Check(name, "not installed", False)


def _torch() -> Check:
    import torch

    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found = str(accelerator) if accelerator else f"none, {torch.get_num_threads()} CPU threads"
    return Check("accelerator", f"{found} (torch built for {built_for})", True)


def _extras() -> list[Check]:
    """Which packages of each extra of pyproject.toml are missing; none of them has to be there."""
    from packaging.requirements import Requirement

    about = metadata("scfm-hf")
    requirements = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    checks = []
    for extra in about.get_all("Provides-Extra") or ():
        packages = [one.name for one in requirements if one.marker and one.marker.evaluate({"extra": extra})]
        missing = [name for name in packages if not _package(name).is_well]
        found = f"not installed: {', '.join(missing)}" if missing else "installed"
        checks.append(Check(f"extra [{extra}]", found, True))
    return checks


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


def _data() -> list[Check]:
    """Whether the data that ships is as it was built: gene tables, example cells, tokenizers."""
    from scfm_hf.data.examples import examples
    from scfm_hf.genes.tables import table_sources

    tables = {table["file"]: table["sha256"] for table in table_sources().values()}
    cells = {f"{name}.h5ad": example["sha256"] for name, example in examples().items()}
    damaged = {
        "gene tables": [name for name, digest in tables.items() if _sha256("scfm_hf.genes.tables", name) != digest],
        "example cells": [name for name, digest in cells.items() if _sha256("scfm_hf.data.examples", name) != digest],
        "tokenizers": _damaged_tokenizers(),
    }
    return [
        Check(what, f"damaged: {', '.join(names)}; install scfm_hf again" if names else "as built", not names)
        for what, names in damaged.items()
    ]


def _sha256(package: str, name: str) -> str | None:
    """Digest of a file of a package; None if it is not there."""
    try:
        return hashlib.sha256((files(package) / name).read_bytes()).hexdigest()
    except OSError:
        return None


def _damaged_tokenizers() -> list[str]:
    """The tokenizers that ship whose vocabulary is not the one that their configuration names."""
    from scfm_hf.models.released import released_tokenizer, released_tokenizers

    damaged = []
    for name, folder in released_tokenizers().items():
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["cell_options"]
        if released_tokenizer(name).vocabulary_digest != said["vocabulary_digest"]:
            damaged.append(name)
    return damaged
