"""Golden numbers as they lie on disk: one folder a variant, read by the keys of its ``golden.json`` alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

TESTS = Path(__file__).parents[1]
#: The whole set, beside the repository; a bare clone has the trimmed copy only.
DEFAULT_ROOT = Path(os.environ.get("SCFM_HF_SHARED", TESTS.parents[1] / "shared")) / "golden"
TRIMMED_ROOT = TESTS / "golden"


def golden_root() -> Path:
    """Folder of all goldens: SCFM_HF_GOLDEN, else the whole set, else the trimmed copy.

    Raises
    ------
    FileNotFoundError
        If the folder that was named holds no golden: nothing would be compared, and all tests pass.
    """
    if named := os.environ.get("SCFM_HF_GOLDEN"):
        if not golden_folders(Path(named)):
            raise FileNotFoundError(f"SCFM_HF_GOLDEN={named} holds no <family>/<variant>/golden.json.")
        return Path(named)
    return DEFAULT_ROOT if DEFAULT_ROOT.is_dir() else TRIMMED_ROOT


def golden_folders(root: Path) -> list[Path]:
    """Folders of the variants under a root, sorted."""
    return sorted(path.parent for path in root.glob("*/*/golden.json"))


@dataclass(frozen=True, kw_only=True)
class GoldenArray:
    """What ``golden.json`` says about an array; the fields are its keys."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    tolerance: float
    axis: tuple[str, ...] | None = None
    cells: tuple[int, ...] | None = None
    case: str = ""
    run: str | None = None
    weights: str | None = None
    inputs: Mapping[str, str | None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    positions: tuple[int, ...] | None = None
    batch: str | int | None = None
    mode: str = "eval"
    where: str | None = None
    where_offset: int = 0
    tie_groups: str | None = None
    keys: tuple[str, ...] = ()
    of: str | None = None
    names: Sequence[str] | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The name without the prefix of its case."""
        return self.name.removeprefix(f"{self.case}.") if self.case else self.name

    @property
    def has_cells(self) -> bool:
        """Whether the lines are cells; ``axis`` alone says so."""
        return bool(self.axis) and "cell" in self.axis


@dataclass(frozen=True)
class Case:
    """Cells and tokenizer options: those of the top level of ``golden.json``, replaced by an entry of ``cases``."""

    name: str
    file: Path | None
    rows: tuple[int, ...]
    gene_column: str
    options: Mapping[str, Any]

    def cells(self) -> anndata.AnnData:
        """The cells at ``rows``, in that order, as the file holds them; a copy that may be changed."""
        if self.file is None:
            raise ValueError(f"The case {self.name!r} has no cells.")
        return _read_cells(self.file)[list(self.rows)].copy()


class Golden:
    """One variant.

    Parameters
    ----------
    folder
        Folder with ``golden.json``, ``expected.safetensors`` and perhaps the original's checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description: dict[str, Any] = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        self.family: str = self.description["family"]
        self.variant: str = self.description["variant"]

    def __repr__(self) -> str:
        return f"{self.family}/{self.variant}"

    @cached_property
    def arrays(self) -> Mapping[str, GoldenArray]:
        """Descriptions of all arrays, by name."""
        return {name: self._array(name, entry) for name, entry in self.description["arrays"].items()}

    def _array(self, name: str, entry: Mapping[str, Any]) -> GoldenArray:
        known = GoldenArray.__dataclass_fields__
        values = {key: value for key, value in entry.items() if key in known}
        for key in ("shape", "axis", "cells", "positions", "keys"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        values["names"] = self.names(entry.get("names"))
        values["seeds"] = {draw: self.description["seeds"][draw] for draw in entry.get("seeds") or ()}
        return GoldenArray(name=name, **{key: value for key, value in values.items() if value is not None})

    def names(self, names: Sequence[str] | str | None) -> Sequence[str] | None:
        """Names of the entries of an axis: a list as it is, or the list at a dotted path of ``golden.json``."""
        if not isinstance(names, str):
            return names
        found: Any = self.description
        for part in names.split("."):
            found = found[part]
        return found

    def values(self, name: str) -> NDArray[Any]:
        """The stored array."""
        return self._stored[name]

    @cached_property
    def _stored(self) -> dict[str, NDArray[Any]]:
        with safe_open(self.folder / "expected.safetensors", framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    def lines(self, name: str, cells: Sequence[int]) -> NDArray[Any]:
        """Lines of a stored array that belong to some cells (positions into the rows of its case).

        An array without cell axis is given whole. One that holds other cells than those asked for is given line by
        line.
        """
        array, values = self.arrays[name], self.values(name)
        if not array.has_cells:
            return values
        stored = list(array.cells) if array.cells is not None else list(range(len(values)))
        if set(cells) <= set(stored):
            return values[[stored.index(cell) for cell in cells]]
        if len(stored) == len(cells):
            return values
        raise ValueError(f"{self}: {name} holds the cells {stored}, not {list(cells)}.")

    def cells_of(self, array: GoldenArray) -> tuple[int, ...]:
        """Positions into the rows of its case that an array was computed from, in its order."""
        return array.cells if array.cells is not None else tuple(range(len(self.case(array.case).rows)))

    def case(self, name: str = "") -> Case:
        """The cells and tokenizer options of a case."""
        top = self.description
        entry = dict((top.get("cases") or {}).get(name, {}))
        options = {**(top.get("tokenizer") or {}), **entry}
        for key in ("input", "rows", "gene_column"):
            options.pop(key, None)
        file = entry.get("input", top.get("input"))
        return Case(
            name=name,
            file=None if file is None else self.folder.parents[1] / file,
            rows=tuple(entry.get("rows", top.get("rows")) or ()),
            gene_column=entry.get("gene_column", top.get("gene_column")),
            options=options,
        )

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the original's files."""
        name = self.description.get("checkpoint")
        return None if name is None else self.folder / name

    @property
    def weights(self) -> Mapping[str, str]:
        """Weights files, relative to the checkpoint, by key; empty where the layout has one usual name."""
        return self.description.get("weights") or {}

    @property
    def files(self) -> Mapping[str, Any]:
        """Other files that the variant needs, relative to the checkpoint."""
        return self.description.get("files") or {}

    def weights_of(self, array: GoldenArray) -> Iterator[str | None]:
        """Keys of all weights that must give an array."""
        if array.weights is None and self.description.get("weights_equal"):
            yield from self.weights
        elif array.weights is not None:
            yield array.weights
        else:
            yield "default" if "default" in self.weights else None


@cache
def _read_cells(path: Path) -> anndata.AnnData:
    return anndata.read_h5ad(path)
