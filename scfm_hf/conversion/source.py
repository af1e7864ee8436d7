"""What a checkpoint of an original lies in: a folder with its files, and the folders above with what they share."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import pandas as pd
from pyarrow import parquet

from scfm_hf.cards import SourceFile
from scfm_hf.conversion.downloads import refuse_failed_download
from scfm_hf.conversion.pickles import read_dictionary
from scfm_hf.conversion.tensors import read_array, read_checkpoint, state_dict
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

#: How many folders above the weights are searched for side files.
_FOLDERS_ABOVE = 3
#: Largest text that is read, in bytes, and largest table, in entries.
_LARGEST_TEXT, _LARGEST_TABLE = 2**28, 2**30


class SourceFolder:
    """The files of a checkpoint; remembers which were read, for the manifest.

    Parameters
    ----------
    path
        A folder, or the weights file itself.
    weights
        The weights file, relative to the folder, where there are several or it has an unusual name.
    files
        Side files that lie elsewhere: role -> path, relative to the folder, else to where the program runs. The family
        says what the roles are.

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
        self._files = {role: self._place(name) for role, name in (files or {}).items()}
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
        wanted = " or ".join(patterns)
        raise CheckpointError(f"{self.path} holds no weights file ({wanted}). It holds: {self._listing()}.")

    def find(self, *patterns: str, role: str | None = None) -> Path | None:
        """A side file: the one given for a role, else the first that fits, in the weights' folder or up to three up."""
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
            content = json.loads(_text(path))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({error}). Fetch it again.") from error
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
        content = _text(path)
        self.note(path)
        return content

    def table(self, path: Path, **options: Any) -> pd.DataFrame:
        """Content of a table (csv, tsv, parquet); the options are those of ``pandas.read_csv``."""
        refuse_failed_download(path)
        try:
            if path.suffix == ".parquet":
                described = parquet.read_metadata(path)
                if described.num_rows * described.num_columns > _LARGEST_TABLE:
                    raise CheckpointError(f"{path} has {described.num_rows:,} rows: too many, refused.")
                content = pd.read_parquet(path)
            else:
                separator = "\t" if path.suffix == ".tsv" else ","
                content = pd.read_csv(StringIO(_text(path)), **{"sep": separator, **options})
        except CheckpointError:
            raise
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as a table ({error}). Fetch it again.") from error
        self.note(path)
        return content

    def genes(self, path: Path) -> pd.DataFrame:
        """``var`` of an h5ad file: its genes, in order. The cells are not read."""
        refuse_failed_download(path)
        try:
            cells = anndata.read_h5ad(path, backed="r")
            content = cells.var.copy()
            cells.file.close()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read as an h5ad file ({error}). Fetch it again.") from error
        self.note(path)
        return content

    def note(self, path: Path) -> None:
        """Remember that a file was read."""
        if path not in self._read:
            name = os.path.relpath(path, self.path)
            self._read[path] = SourceFile.of(path, name=path.name if name.startswith("..") else Path(name).as_posix())

    def _place(self, name: str | os.PathLike[str]) -> Path:
        """Where a file is that the caller named: in the folder, else from where the program runs."""
        inside = self.path / name
        return inside if inside.exists() or not Path(name).exists() else Path(name)

    def _listing(self) -> str:
        names = sorted(file.name for file in self.path.iterdir())
        return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "") if names else "nothing"


def _text(path: Path) -> str:
    """Content of a text file."""
    refuse_failed_download(path)
    size = path.stat().st_size
    if size > _LARGEST_TEXT:
        raise CheckpointError(f"{path} has {size:,} bytes; a text has at most {_LARGEST_TEXT:,}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as text ({error}). Fetch it again.") from error
