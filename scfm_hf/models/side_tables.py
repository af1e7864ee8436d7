"""Big frozen tables beside a model: mapped into memory, read a few rows at a time, never part of the weights.

Protein embeddings of 145,469 genes are 3 GB. They do not train, and a batch of cells needs a few thousand rows, so they
live in a safetensors file of their own, from which only those rows are read.
"""

from __future__ import annotations

import json
import mmap
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: NumPy types of the number formats that such a table may have in its file.
_TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}

#: Rows that are read from a mapped file at a time.
_AT_A_TIME = 8


class SideTable(nn.Module):
    """Rows of numbers by id; a module without parameters, so that no optimiser, adapter or weights file ever sees it.

    ``save_pretrained`` and ``from_pretrained`` of a model write and open the tables that they find among its modules.

    Parameters
    ----------
    file_name
        Name of the file beside the model's weights.
    n_rows, n_columns
        Shape of the table.
    """

    def __init__(self, file_name: str, n_rows: int, n_columns: int) -> None:
        super().__init__()
        self.file_name, self.n_rows, self.n_columns = file_name, n_rows, n_columns
        self._rows: NDArray[Any] | None = None
        self._path: Path | None = None
        self._identity: tuple[int, ...] | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of these ids, float32, (*ids.shape, n_columns); each distinct row is read once.

        A fresh model, made from a configuration alone, has zeros; ``from_pretrained`` refuses a folder without the
        file.
        """
        if self._rows is None:
            return torch.zeros(*ids.shape, self.n_columns, device=ids.device)
        unique, position = torch.unique(ids, return_inverse=True)
        return torch.from_numpy(self._read(unique.cpu().numpy())).to(ids.device)[position]

    @property
    def is_filled(self) -> bool:
        """Whether there is anything to read."""
        return self._rows is not None

    def set_rows(self, rows: NDArray[Any] | Tensor) -> None:
        """Hold these rows in memory, (n_rows, n_columns).

        Raises
        ------
        CheckpointError
            If the shape is another.
        """
        rows = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        self._check(rows.shape, "The rows")
        self._rows, self._path = rows, None

    def open(self, path: Path) -> None:
        """Map the table of a safetensors file into memory; nothing is read yet.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or holds a table of another shape.
        """
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing: this model needs its table of {self.n_rows:,} rows beside the weights. Fetch the "
                "whole folder again."
            )
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= 1_000_000:
                raise CheckpointError(f"{path} is no safetensors file.")
            entry = json.loads(file.read(length)).get("rows")
        if entry is None or entry["dtype"] not in _TYPES:
            raise CheckpointError(f"{path} holds no floating-point table named 'rows'.")
        self._check(tuple(entry["shape"]), str(path))
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if path.stat().st_size < end:
            raise CheckpointError(
                f"{path} is truncated: {end:,} bytes are due, {path.stat().st_size:,} are there. Fetch it again."
            )
        self._rows = np.memmap(path, _TYPES[entry["dtype"]], "r", begin, tuple(entry["shape"]))
        self._path, self._identity = path, _identity(path)

    def save(self, folder: Path) -> None:
        """Write the table into a folder, whole or not at all."""
        rows = np.zeros((self.n_rows, self.n_columns), np.float32) if self._rows is None else self._rows
        target = folder / self.file_name
        # The mapped rows outlive a file that is gone since, or in whose place another one lies.
        path = self._path
        if path is not None and not (path.is_file() and _identity(path) == self._identity):
            path = None
        if path is not None and target.exists() and target.samefile(path):
            return
        beside = target.with_name(f".{target.name}.part")
        try:
            if path is not None:
                shutil.copyfile(path, beside)
            else:
                save_file({"rows": np.ascontiguousarray(rows)}, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def extra_repr(self) -> str:
        """Shape and file, for ``print(model)``."""
        return f"{self.n_rows}, {self.n_columns}, file_name={self.file_name!r}"

    def _read(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of these ids, float32.

        Of a mapped file a few at a time, and the pages are given back after each: the system maps the neighbours of
        what is read too, in the end the whole table. They stay in its cache of the file.
        """
        assert self._rows is not None
        if torch.compiler.is_compiling() or not isinstance(self._rows, np.memmap):
            return np.asarray(self._rows[ids], np.float32)
        rows = np.empty((len(ids), self.n_columns), np.float32)
        pages = getattr(self._rows, "_mmap", None)
        for start in range(0, len(ids), _AT_A_TIME):
            rows[start : start + _AT_A_TIME] = self._rows[ids[start : start + _AT_A_TIME]]
            if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)
        return rows

    def _check(self, shape: tuple[int, ...], what: str) -> None:
        if tuple(shape) != (self.n_rows, self.n_columns):
            raise CheckpointError(
                f"{what}: shape {tuple(shape)}, but the model's table is {(self.n_rows, self.n_columns)}."
            )


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from another one that took its name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
