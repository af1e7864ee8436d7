"""A golden folder made up for the tests of the parity runner."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from parity.golden import Golden

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


IDS = np.array([[5, 3, 4, 0], [7, 6, 0, 0], [3, 9, 8, 2]])
MASK = (IDS != 0).astype(np.int64)
STATES = np.linspace(-3, 3, 3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)
TOKENS = {"axis": ["cell", "token"]}
HIDDEN = {"axis": ["cell", "token", "hidden"], "tolerance": 1e-5}
ATTENTION_MASK = {"attention_mask": (MASK, {**TOKENS, "role": "aux"})}


def make_golden(
    root: Path, arrays: Mapping[str, tuple[Any, dict[str, Any]]], *, folder: str = "small", **top: Any
) -> Golden:
    """A golden folder: arrays by name, each with the keys of its description that are not derived from it."""
    variant = root / "toy" / folder
    variant.mkdir(parents=True)
    values = {name: np.asarray(value) for name, (value, _) in arrays.items()}
    save_file({name: np.array(value, order="C") for name, value in values.items()}, variant / "expected.safetensors")
    described = {
        name: {
            "shape": list(values[name].shape),
            "dtype": str(values[name].dtype),
            "tolerance": 0,
            "meaning": "",
            "role": "output",
            **keys,
        }
        for name, (_, keys) in arrays.items()
    }
    content = {
        "family": "toy",
        "variant": "small",
        "rows": [4, 8, 6],
        "gene_column": "var_names",
        "arrays": described,
        **top,
    }
    (variant / "golden.json").write_text(json.dumps(content), encoding="utf-8")
    return Golden(variant)
