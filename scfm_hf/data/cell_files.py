"""Opens files of cells: .h5ad, .zarr, 10x .h5 and folders with a 10x matrix.mtx, local or remote."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from scfm_hf.data.stored_rows import StoredRows, stored_rows
from scfm_hf.errors import CorpusError, MissingExtraError, ScfmError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

_CENSUS = "census://"
_SUFFIXES = (".h5ad", ".zarr", ".h5")
_MATRIX_MARKET = ("matrix.mtx", "matrix.mtx.gz")
# What says that a folder is a group of zarr, in its versions 3 and 2.
_ZARR_GROUP = {"zarr.json", ".zgroup"}
# The parts of a collection that annbatch wrote, each an AnnData.
_COLLECTED = re.compile(r"/dataset_(\d+)$")


class CellObs(Protocol):
    """Annotation of cells, read when asked for."""

    columns: tuple[str, ...]

    def read(self, name: str) -> Any:
        """One column, in full."""

    def ids(self, start: int, stop: int) -> NDArray[np.str_]:
        """Names of some cells."""


class StoredCells:
    """The cells of one file: genes, annotation and rows, each read when asked for.

    Parameters
    ----------
    place
        Path or URL.
    rows
        The expression.
    var
        Annotation of the columns.
    obs
        Annotation of the cells.
    close
        Called to let go of the file.
    layers
        Names of other places of values.
    """

    def __init__(
        self,
        place: str,
        rows: StoredRows,
        var: pd.DataFrame,
        obs: CellObs,
        close: Callable[[], None],
        layers: Sequence[str] = (),
    ) -> None:
        self.place, self.rows, self.var, self._obs, self.close = place, rows, var, obs, close
        self.layers = tuple(layers)
        if len(var) != rows.n_columns:
            raise CorpusError(f"it has {rows.n_columns:,} columns and names {len(var):,} genes")

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.rows.n_rows

    @property
    def obs_columns(self) -> tuple[str, ...]:
        """Names of the columns of obs."""
        return self._obs.columns

    @cached_property
    def all_obs(self) -> pd.DataFrame:
        """The whole of obs, without the names of the cells."""
        return self.obs(self.obs_columns)

    def cell_ids(self, start: int, stop: int) -> NDArray[np.str_]:
        """Names of some cells, (stop - start,)."""
        return self._obs.ids(start, stop)

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of obs, in full.

        Raises
        ------
        CorpusError
            If there is no such column.
        """
        absent = [name for name in columns if name not in self.obs_columns]
        if absent:
            has = ", ".join(map(repr, self.obs_columns)) or "none"
            raise CorpusError(f"obs has no column {', '.join(map(repr, absent))}; it has {has}")
        return pd.DataFrame({name: self._obs.read(name) for name in columns}, index=range(self.n_cells))


class StoredObs:
    """Annotation of cells as anndata stores it, in HDF5 or zarr."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.columns: tuple[str, ...] = tuple(map(str, group.attrs["column-order"]))
        index = group[str(group.attrs["_index"])]
        # Texts of which some may be missing, or categories, are groups.
        self._names: NDArray[np.str_] | None = None
        if hasattr(index, "keys") and "codes" in index:
            self._names = _strings(index["categories"], 0, index["categories"].shape[0])
        self._index = index["values" if self._names is None else "codes"] if hasattr(index, "keys") else index

    def read(self, name: str) -> Any:
        """One column, in full."""
        from anndata.io import read_elem

        stored = self._group[name]
        if "categories" not in stored.attrs:
            return read_elem(stored)
        # Before 0.8 anndata stored the codes as a column of numbers, which points to its categories.
        categories = self._group[stored.attrs["categories"]]
        return pd.Categorical.from_codes(stored[:], _strings(categories, 0, categories.shape[0]).astype(object))

    def ids(self, start: int, stop: int) -> NDArray[np.str_]:
        """Names of some cells."""
        return _strings(self._index, start, stop) if self._names is None else self._names[self._index[start:stop]]


class TableObs:
    """Annotation of cells in memory, named by its index."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self.columns: tuple[str, ...] = tuple(map(str, table.columns))

    def read(self, name: str) -> Any:
        """One column, in full."""
        return self._table[name].array

    def ids(self, start: int, stop: int) -> NDArray[np.str_]:
        """Names of some cells."""
        return self._table.index[start:stop].to_numpy().astype(np.str_)


def find_cell_files(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the files of cells that paths, folders, URLs or patterns with ``*`` name, in a fixed order.

    Raises
    ------
    CorpusError
        If one of them names nothing, or none is given.
    """
    import fsspec

    given = [files] if isinstance(files, str) or hasattr(files, "__fspath__") else list(files)
    found: dict[str, None] = {}
    for entry in map(str, given):
        if entry.startswith(_CENSUS):
            found[entry] = None
            continue
        system, path = fsspec.core.url_to_fs(entry)
        matches = sorted(system.glob(path)) if "*" in path else [path] if system.exists(path) else []
        cells = [file for match in matches for file in _cell_files_under(system, match)]
        if not cells:
            what = "holds no .h5ad, .zarr, 10x .h5 or matrix.mtx" if matches else "does not exist"
            raise CorpusError(f"{entry} {what}. Give files, folders, or patterns such as corpus/*.h5ad.")
        remote = "://" in entry
        found |= dict.fromkeys(system.unstrip_protocol(file) if remote else file for file in cells)
    if not found:
        raise CorpusError("No files were given: the list is empty. Did a search for files find none?")
    return list(found)


def open_cells(place: str, *, layer: str | None = None, use_raw: bool = False) -> StoredCells:
    """Open a file of cells.

    Parameters
    ----------
    place
        Path or URL (any protocol of fsspec) of an ``.h5ad`` or 10x ``.h5`` file, a ``.zarr`` store, or a folder with
        ``matrix.mtx``, which is text and is read whole; or ``str`` of a :class:`scfm_hf.data.census.CensusQuery`.
    layer, use_raw
        Where the counts are, X otherwise; for AnnData only.

    Raises
    ------
    CorpusError
        If the file is damaged, of another format, or stored in a way that no few cells can be read of.
    """
    try:
        return _open(place, layer, use_raw)
    except MissingExtraError:
        raise
    except (ScfmError, OSError, KeyError, ValueError, TypeError, RuntimeError, EOFError) as error:
        said = str(error).strip().rstrip(".") or type(error).__name__
        raise CorpusError(f"{place} cannot be read: {said}.") from error


def _open(place: str, layer: str | None, use_raw: bool) -> StoredCells:
    if place.startswith(_CENSUS):
        from scfm_hf.data.census import open_census

        if use_raw:
            raise CorpusError("Census has no raw beside X; layer= chooses a layer of X")
        return open_census(place, layer=layer)
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    if not system.exists(path):
        raise CorpusError("there is no such file")
    if system.isdir(path):
        if any(system.exists(f"{path.rstrip('/')}/{name}") for name in _MATRIX_MARKET):
            from scfm_hf.data.tenx import open_matrix_market

            return open_matrix_market(place, system, path)
        import zarr

        return _from_anndata(place, zarr.open_group(place, mode="r"), layer, use_raw, lambda: None)
    import h5py

    handle = h5py.File(system.open(path, "rb") if "://" in place else path, "r")
    try:
        if "X" in handle or "layers" in handle or "obs" in handle:
            return _from_anndata(place, handle, layer, use_raw, handle.close)
        from scfm_hf.data.tenx import open_tenx_h5

        return open_tenx_h5(place, handle)
    except BaseException:
        handle.close()
        raise


def _from_anndata(place: str, group: Any, layer: str | None, use_raw: bool, close: Callable[[], None]) -> StoredCells:
    from anndata.io import read_elem

    if layer is not None and use_raw:
        raise CorpusError("give either layer= or use_raw=True, not both")
    where = f"layers/{layer}" if layer is not None else "raw/X" if use_raw else "X"
    layers = sorted(map(str, group["layers"])) if "layers" in group else []
    if where not in group:
        raise CorpusError(f"it has no {where}; it has {', '.join(map(repr, layers)) or 'no'} layers")
    if not hasattr(group["obs"], "keys"):
        raise CorpusError("it was written by anndata before 0.7. Read it with anndata and write it again")
    var = read_elem(group["raw/var" if use_raw else "var"])
    return StoredCells(place, stored_rows(group[where]), var, StoredObs(group["obs"]), close, layers)


def _cell_files_under(system: Any, path: str) -> list[str]:
    """The path itself if it is a file of cells, else those in the folder and below."""
    path = path.rstrip("/")
    if not system.isdir(path) or _is_matrix_market(system, path):
        return [path]
    inside = sorted(str(entry["name"]).rstrip("/") for entry in system.ls(path, detail=True))
    names = [PurePosixPath(entry).name for entry in inside]
    if path.endswith(".zarr") or not _ZARR_GROUP.isdisjoint(names):
        numbers = {int(match[1]): entry for entry in inside if (match := _COLLECTED.search(entry))}
        return [numbers[number] for number in sorted(numbers)] if "obs" not in names and numbers else [path]
    found = []
    for entry in inside:
        if PurePosixPath(entry).name.startswith("."):
            continue
        if system.isdir(entry):
            found += _cell_files_under(system, entry)
        elif entry.endswith(_SUFFIXES):
            found.append(entry)
    return found


def _is_matrix_market(system: Any, path: str) -> bool:
    return any(system.exists(f"{path}/{name}") for name in _MATRIX_MARKET)


def _strings(stored: Any, start: int, stop: int) -> NDArray[np.str_]:
    import h5py

    if isinstance(stored, h5py.Dataset) and h5py.check_string_dtype(stored.dtype) is not None:
        return np.asarray(stored.asstr()[start:stop], np.str_)
    return np.asarray(np.asarray(stored[start:stop]).astype(object), np.str_)
