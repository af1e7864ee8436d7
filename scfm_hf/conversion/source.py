"""What a checkpoint of an original lies in: a folder with its files, and the folders above with what they share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from scfm_hf.cards import SourceFile
from scfm_hf.conversion.pickles import read_dictionary
from scfm_hf.conversion.tensors import read_array, read_checkpoint, state_dict
from scfm_hf.errors import CheckpointError

#: How many folders above the weights are searched for side files.
_FOLDERS_ABOVE = 3


class SourceFolder:
    """The files of a checkpoint; remembers which were read, for the manifest.

    Parameters
    ----------
    path
        A folder, or the weights file itself.
    weights
        The weights file, relative to the folder, where there are several or it has an unusual name.
    files
        Side files that lie elsewhere: role -> path, relative to the folder or absolute. Roles are the family's.

    Raises
    ------
    CheckpointError
        If something of this is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
        files: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        given = Path(path)
        if not given.exists():
            raise CheckpointError(f"{given} does not exist.")
        self.path = given if given.is_dir() else given.parent
        chosen = given if given.is_file() else (self.path / weights if weights is not None else None)
        if chosen is not None and not chosen.is_file():
            raise CheckpointError(f"{chosen} does not exist.")
        self._weights = chosen
        self._files = {role: self.path / name for role, name in (files or {}).items()}
        absent = [f"{role}: {file}" for role, file in self._files.items() if not file.exists()]
        if absent:
            raise CheckpointError(f"These files do not exist: {', '.join(absent)}.")
        self._read: dict[Path, SourceFile] = {}

    @property
    def home(self) -> Path:
        """Folder of the weights file, else the folder itself."""
        return self._weights.parent if self._weights is not None else self.path

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Every file that was read, with size and sha256."""
        return tuple(self._read.values())

    def weights(self, *patterns: str) -> Path:
        """The weights file: the one that was named, else the only one that fits the first pattern with any.

        Raises
        ------
        CheckpointError
            If there is none, or there are several.
        """
        if self._weights is not None:
            return self._weights
        for pattern in patterns:
            found = sorted(file for file in self.path.glob(pattern) if file.is_file())
            if len(found) > 1:
                names = ", ".join(file.name for file in found[:5])
                raise CheckpointError(f"{self.path} holds several weights files: {names}. Name one with weights=.")
            if found:
                return found[0]
        raise CheckpointError(f"{self.path} holds no weights file ({' or '.join(patterns)}). It holds: {self._listing()}.")

    def find(self, *patterns: str, role: str | None = None) -> Path | None:
        """A side file: the one given for a role, else the first that fits, beside the weights or up to three folders above."""
        if role is not None and role in self._files:
            return self._files[role]
        folder = self.home.absolute()
        for place in [folder, *list(folder.parents)[:_FOLDERS_ABOVE]]:
            for pattern in patterns:
                found = sorted(file for file in place.glob(pattern) if file.is_file())
                if found:
                    return found[0]
        return None

    def need(self, *patterns: str, role: str | None = None, what: str) -> Path:
        """As :meth:`find`, for a file that must be there.

        Parameters
        ----------
        *patterns
            Names, with wildcards, relative to the folders that are searched.
        role
            Name under which ``files=`` may give it.
        what
            What the file is and where it is to be had, for the message.

        Raises
        ------
        CheckpointError
            If it is not there.
        """
        found = self.find(*patterns, role=role)
        if found is None:
            by_name = f" or name it with files={{{role!r}: ...}}" if role else ""
            raise CheckpointError(
                f"{' or '.join(patterns)} is missing beside {self.home}: {what}. Put it into that folder{by_name}."
            )
        return found

    def tensors(self, path: Path, *keys: str) -> dict[str, Tensor]:
        """Tensors by name from a weights file, which may stand under one of some keys."""
        return state_dict(self.checkpoint(path), path, *keys)

    def checkpoint(self, path: Path) -> Any:
        """All that a weights file holds."""
        content = read_checkpoint(path)
        self.note(path)
        return content

    def json(self, path: Path) -> Any:
        """Content of a JSON file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({error}).") from error
        self.note(path)
        return content

    def dictionary(self, path: Path) -> Any:
        """Content of a pickled dictionary, none of which is run."""
        content = read_dictionary(path)
        self.note(path)
        return content

    def array(self, path: Path) -> NDArray[Any]:
        """Content of a NumPy file."""
        content = read_array(path)
        self.note(path)
        return content

    def text(self, path: Path) -> str:
        """Content of a text file (csv, tsv, lists)."""
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read as text ({error}).") from error
        self.note(path)
        return content

    def note(self, path: Path) -> None:
        """Remember that a file was read."""
        if path not in self._read:
            name = os.path.relpath(path, self.path)
            self._read[path] = SourceFile.of(path, name=path.name if name.startswith("..") else Path(name).as_posix())

    def _listing(self) -> str:
        names = sorted(file.name for file in self.path.iterdir())
        return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "") if names else "nothing"
