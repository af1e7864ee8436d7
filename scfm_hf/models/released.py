"""Tokenizers of the released models, ready to use: full vocabularies and statistics, as package data of their families.

Where a licence allows it, the folder ``released/`` of a family holds one saved tokenizer a released model. They were
made by ``scripts/build_released_tokenizers.py``.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from scfm_hf.tokenization import CellTokenizer

#: File of a folder that says where the tokenizer's tables come from.
SOURCE_FILE = "source.json"


def released_tokenizers() -> dict[str, Path]:
    """Name of each tokenizer that ships -> its folder, which ``AutoTokenizer.from_pretrained`` reads."""
    found: dict[str, Path] = {}
    for spec in families().values():
        folder = Path(str(files(spec.package))) / "released"
        found |= {path.name: path for path in sorted(folder.glob("*")) if (path / "tokenizer.json").is_file()}
    return found


def released_tokenizer(name: str) -> CellTokenizer:
    """Load a tokenizer that ships.

    Parameters
    ----------
    name
        Such as ``geneformer-v2``; :func:`released_tokenizers` lists them.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    from scfm_hf.tokenization import CellTokenizer

    folders = released_tokenizers()
    if name not in folders:
        raise KeyError(f"No tokenizer {name!r} ships with scfm_hf. There are: {', '.join(folders)}.")
    return CellTokenizer.from_pretrained(folders[name])


def source_of(name: str) -> dict[str, str]:
    """Source and licence of the tables of a tokenizer that ships."""
    return json.loads((released_tokenizers()[name] / SOURCE_FILE).read_text(encoding="utf-8"))
