"""What a conversion did: every file, every tensor."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scfm_hf.cards import SourceFile
    from scfm_hf.conversion.renaming import TensorRecord


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What :func:`scfm_hf.convert_checkpoint` did; ``str`` gives a paragraph to read.

    Parameters
    ----------
    family, architecture
        Family and model class of the result.
    output
        Where it lies.
    sources
        The files that were read, with size and sha256.
    tensors
        What became of each tensor of the original.
    derived
        Tensors of the model that were computed from other files, or from nothing: tables, positions.
    n_parameters
        Parameters of the model.
    vocabulary_digest
        sha256 of the ordered vocabulary, None without a tokenizer.
    notes
        What else a user should know: options that were read off the tensors, heads that were not there.
    """

    family: str
    architecture: str
    output: Path
    sources: tuple[SourceFile, ...]
    tensors: tuple[TensorRecord, ...]
    derived: tuple[str, ...] = ()
    n_parameters: int
    vocabulary_digest: str | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, without the place where it lies."""
        return {name: value for name, value in asdict(self).items() if name != "output"}

    def write(self, folder: Path) -> None:
        """Write it as ``conversion_report.json`` into a folder."""
        text = json.dumps(self.to_dict(), indent=1, sort_keys=True)
        (folder / "conversion_report.json").write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        dropped = [record for record in self.tensors if record.target is None]
        originals = {record.source for record in self.tensors}
        lines = [
            f"{self.architecture} ({self.family}), {self.n_parameters:,} parameters, in {self.output}.",
            f"Read {len(self.sources)} files: {', '.join(source.name for source in self.sources)}.",
            f"{len(originals) - len(dropped)} of {len(originals)} tensors were taken over.",
        ]
        for reason in dict.fromkeys(record.note for record in dropped):
            names = [record.source for record in dropped if record.note == reason]
            lines.append(f"Left out, {reason}: {_shown(names)}.")
        if self.derived:
            lines.append(f"Made from other files, or computed: {_shown(self.derived)}.")
        return "\n".join([*lines, *self.notes])


def _shown(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
