"""``manifest.json``: what a folder of shards holds, whether it is all there, and what it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Name of the manifest in a folder of shards.
MANIFEST = "manifest.json"
_FORMAT = 1
_LIBRARIES = ("scfm-hf", "anndata", "datasets", "numpy", "pyarrow", "transformers")


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One shard as it was written.

    Parameters
    ----------
    file
        Path in the folder.
    rows, tokens, bytes
        Cells, their tokens, and the size of the file.
    sha256
        Of the file.
    """

    file: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """What ``manifest.json`` says.

    Parameters
    ----------
    shards
        In their order.
    tokenizer
        Digest of the tokenizer, which is in the folder ``tokenizer``.
    files
        What the cells come from: ``file``, ``n_cells``, ``digest``.
    order, options
        Order of the rows, and what else decided them.
    skipped
        File that was not used -> why.
    libraries
        Version of each library that wrote the shards.
    """

    shards: tuple[ShardRecord, ...]
    tokenizer: str
    files: tuple[Mapping[str, Any], ...]
    order: str = "files"
    options: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=lambda: library_versions())

    @property
    def n_rows(self) -> int:
        """Cells of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> str:
        """The text of the file; ``complete`` comes last, so that a text that was cut off does not have it."""
        described = {
            "format": _FORMAT,
            "rows": self.n_rows,
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            **asdict(self),
            "complete": True,
        }
        return json.dumps(described, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, place: str) -> Self:
        """Read the text of a manifest.

        Raises
        ------
        CorpusError
            If it is damaged, incomplete, or of a later format.
        """
        try:
            described = json.loads(text)
            if described["format"] > _FORMAT:
                raise CorpusError(
                    f"{place} has shards of format {described['format']}, this version of scfm_hf reads {_FORMAT}. "
                    "Update scfm_hf."
                )
            if described["complete"] is not True:
                raise ValueError("it is not complete")
            own = {name: described[name] for name in cls.__dataclass_fields__}
            own["shards"] = tuple(ShardRecord(**shard) for shard in own["shards"])
            own["files"] = tuple(own["files"])
            return cls(**own)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CorpusError):
                raise
            raise CorpusError(
                f"{place}: {MANIFEST} is damaged ({error}). Make the shards, or fetch them, again."
            ) from error


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a shard holds."""
    return {name: metadata.version(name) for name in _LIBRARIES}
