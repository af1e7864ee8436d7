"""``scfm_manifest.json``: where a model comes from, under which licences, and how close it is to the original."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

FILE_NAME = "scfm_manifest.json"

_LIBRARIES = ("scfm-hf", "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "peft")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that a model was converted from.

    Parameters
    ----------
    name
        Its name, relative to the folder of the original.
    sha256
        Digest of its content, in hexadecimal.
    size
        Its length in bytes.
    """

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", str(self.sha256)) or not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"sha256={self.sha256!r}, size={self.size!r} cannot be those of a file ({self.name!r}).")

    @classmethod
    def of(cls, path: str | os.PathLike[str], *, name: str | None = None) -> Self:
        """Describe a file on disk."""
        path = Path(path)
        with path.open("rb") as file:
            return cls(
                name=name or path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder's ``scfm_manifest.json`` says.

    Parameters
    ----------
    model_id
        Name on the hub, once it has one.
    family
        Name of the family, as ``scfm families`` prints it.
    sources
        The original's files that it was converted from.
    base_model, base_revision
        For a model trained further: the one that it began with, and the commit of that one, where known.
    code_licence, weights_licence
        Of the original's code, and of the weights.
    parity
        Largest absolute difference to the original's numbers, by what was compared. Empty once the weights were trained
        further.
    vocabulary_digest
        sha256 of the ordered vocabulary.
    libraries
        Version of each library that wrote the folder.
    """

    model_id: str | None = None
    family: str | None = None
    sources: tuple[SourceFile, ...] = ()
    base_model: str | None = None
    base_revision: str | None = None
    code_licence: str | None = None
    weights_licence: str | None = None
    parity: Mapping[str, float] = field(default_factory=dict)
    vocabulary_digest: str | None = None
    libraries: Mapping[str, str] = field(default_factory=lambda: library_versions())

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write it into a folder. The same facts always make the same bytes."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one of what JSON holds.

        Raises
        ------
        ValueError, TypeError
            If a field is unknown or cannot be what it says.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}")
        return cls(**{**values, "sources": tuple(SourceFile(**source) for source in values.get("sources", ()))})

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read it from a folder, or from the file itself.

        Raises
        ------
        FileNotFoundError
            If the folder has none.
        CheckpointError
            If the file is no manifest.
        """
        path = Path(folder)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a manifest of scfm_hf ({error}). Convert the model again.") from error


def library_versions() -> dict[str, str]:
    """Version of each library that a saved model depends on; those that are not installed are left out."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
