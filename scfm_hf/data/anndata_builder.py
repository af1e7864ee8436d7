"""A builder of the ``datasets`` library for files of cells, which it has none for.

Importing this module makes it known under the name ``anndata``, and by the suffix ``.h5ad``::

    import scfm_hf.data.anndata_builder
    from datasets import load_dataset

    cells = load_dataset("anndata", data_files="cells/*.h5ad", split="train")                  # map-style
    cells = load_dataset("anndata", data_files="cells/*.h5ad", split="train", streaming=True)
    cells = load_dataset("anndata", stores=["cells.zarr", "filtered_feature_bc_matrix"], split="train")
    cells = load_dataset("me/a-data-set-of-h5ad-files", split="train", streaming=True)          # on the hub

A line is a cell: ``gene_ids`` (columns of its file, int32) and ``counts`` (float32) as lists, ``cell_id``, and the
columns of obs: categories as class labels, other texts as strings, numbers and booleans as they are. All files must
have the same genes in the same order, whose names :func:`gene_names` gives; files that differ in their genes are for
:func:`scfm_hf.load_corpus`.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import datasets.builder
import datasets.load
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import packaged_modules

from scfm_hf.data.cell_files import StoredCells, find_cell_files, open_cells
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = "anndata"
# What a line has beside the columns of obs, which are renamed if they have one of these names.
_OWN = ("gene_ids", "counts", "cell_id")


@dataclass
class AnnDataConfig(datasets.BuilderConfig):
    """Options of ``load_dataset("anndata", ...)``.

    Parameters
    ----------
    stores
        Folders (``.zarr``, 10x ``matrix.mtx``) and files, local or remote, in the place of ``data_files``, which takes
        files only.
    columns
        Columns of obs to take; all if not given.
    layer, use_raw
        Where the values are; X if not given. They may be anything: nothing is checked here.
    features
        Types of the columns; found in the files if not given.
    block_size
        Cells read at a time.
    shard_size
        Cells a shard: what workers, processes and nodes share.
    """

    stores: Sequence[str] = ()
    columns: Sequence[str] | None = None
    layer: str | None = None
    use_raw: bool = False
    features: datasets.Features | None = None
    block_size: int = 256
    shard_size: int = 16_384


class AnnDataBuilder(datasets.ArrowBasedBuilder):
    """Reads cells by blocks of rows, so that a file need not fit into memory."""

    BUILDER_CONFIG_CLASS = AnnDataConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Without data_files, datasets takes every file of the working folder.
        given = {} if self.config.stores else self.config.data_files or {}
        files = {str(split): list(dl_manager.download(paths)) for split, paths in given.items()}
        if self.config.stores:
            files["train"] = find_cell_files(self.config.stores)
        if not files:
            raise CorpusError("There is nothing to read: give data_files= or stores=.")
        self._describe([place for places in files.values() for place in places])
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"pieces": self._pieces(places)})
            for split, places in files.items()
        ]

    def _generate_shards(self, pieces: list[tuple[str, int, int]]) -> Iterator[str]:
        yield from (place for place, _, _ in pieces)

    def _generate_tables(self, pieces: list[tuple[str, int, int]]) -> Iterator[tuple[Any, pa.Table]]:
        for number, (place, first, last) in enumerate(pieces):
            cells = self._open(place)
            try:
                obs = cells.obs(self._columns_of(cells))
                for start in range(first, last, self.config.block_size):
                    stop = min(start + self.config.block_size, last)
                    yield _key(number, start), _table(cells, obs, start, stop, self.info.features)
            finally:
                cells.close()

    def _open(self, place: str) -> StoredCells:
        return open_cells(place, layer=self.config.layer, use_raw=self.config.use_raw)

    def _columns_of(self, cells: StoredCells) -> list[str]:
        return list(cells.obs_columns if self.config.columns is None else self.config.columns)

    def _pieces(self, places: Sequence[str]) -> list[tuple[str, int, int]]:
        pieces = []
        for place in places:
            n_cells, size = self._n_cells[place], self.config.shard_size
            pieces += [(place, start, min(start + size, n_cells)) for start in range(0, n_cells, size)]
        return pieces

    def _describe(self, places: Sequence[str]) -> None:
        """Look at every file: its cells, whether its genes are those of the first, and the types of obs."""
        self._n_cells: dict[str, int] = {}
        genes: list[str] = []
        tables = []
        for place in places:
            cells = self._open(place)
            try:
                names = [str(name) for name in cells.var.index]
                genes = genes or names
                if names != genes:
                    raise CorpusError(
                        f"{place} has other genes, or another order of them, than {places[0]} ({len(names):,} and "
                        f"{len(genes):,}). scfm_hf.load_corpus brings such files to one vocabulary."
                    )
                self._n_cells[place] = cells.n_cells
                if self.info.features is None:
                    tables.append(cells.obs(self._columns_of(cells)))
            finally:
                cells.close()
        self.info.description = json.dumps({"genes": genes})
        if self.info.features is None:
            self.info.features = _features(tables, places)


def gene_names(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """Names of the genes that ``gene_ids`` of a data set of this builder count, from 0."""
    return json.loads(dataset.info.description)["genes"]


def _features(tables: Sequence[pd.DataFrame], places: Sequence[str]) -> datasets.Features:
    typed: dict[str, Any] = {
        "gene_ids": datasets.List(datasets.Value("int32")),
        "counts": datasets.List(datasets.Value("float32")),
        "cell_id": datasets.Value("string"),
    }
    for table, place in zip(tables, places, strict=True):
        if list(table.columns) != list(tables[0].columns):
            raise CorpusError(
                f"{place} has other columns of obs than {places[0]}. Name those that all files have with columns=."
            )
    for name in tables[0].columns:
        parts = [table[name] for table in tables]
        typed[_renamed(name)] = _feature(parts)
    return datasets.Features(typed)


def _feature(parts: Sequence[pd.Series]) -> Any:
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        return datasets.ClassLabel(names=sorted({str(name) for part in parts for name in part.cat.categories}))
    if all(pd.api.types.is_bool_dtype(part) for part in parts):
        return datasets.Value("bool")
    if all(pd.api.types.is_numeric_dtype(part) for part in parts):
        return datasets.Value(str(np.result_type(*(part.to_numpy() for part in parts))))
    return datasets.Value("string")


def _table(cells: StoredCells, obs: pd.DataFrame, start: int, stop: int, features: datasets.Features) -> pa.Table:
    rows = cells.rows.read(start, stop)
    offsets = pa.array(rows.offsets.astype(np.int32))
    columns: dict[str, pa.Array] = {
        "gene_ids": pa.ListArray.from_arrays(offsets, pa.array(rows.columns.astype(np.int32, copy=False))),
        "counts": pa.ListArray.from_arrays(offsets, pa.array(rows.values.astype(np.float32, copy=False))),
        "cell_id": pa.array(cells.cell_ids(start, stop).astype(object), pa.string()),
    }
    for name in obs.columns:
        column, feature = obs[name].iloc[start:stop], features[_renamed(name)]
        if isinstance(feature, datasets.ClassLabel):
            codes = column.map(str, na_action="ignore").astype(pd.CategoricalDtype(feature.names)).cat.codes
            columns[_renamed(name)] = pa.array(codes.astype(np.int64), mask=(codes < 0).to_numpy())
        else:
            text = feature.dtype == "string"
            values = column.map(str, na_action="ignore").astype(object) if text else column
            columns[_renamed(name)] = pa.array(values, feature.pa_type, from_pandas=True)
    return pa.table(columns).cast(features.arrow_schema)


def _key(number: int, start: int) -> Any:
    """Name of a table among those of a split: a type of its own in datasets 5, a text in datasets 4."""
    key = getattr(datasets.builder, "Key", None)
    return f"{number}_{start}" if key is None else key(number, start)


def _renamed(name: str) -> str:
    return f"obs_{name}" if name in _OWN else name


def register() -> None:
    """Make the builder known to ``datasets``; importing this module does so."""
    lines = inspect.getsource(inspect.getmodule(register)).splitlines()  # type: ignore[arg-type]
    digest = packaged_modules._hash_python_lines(lines)
    packaged_modules._PACKAGED_DATASETS_MODULES[NAME] = (__name__, digest)
    packaged_modules._EXTENSION_TO_MODULE[".h5ad"] = (NAME, {})
    packaged_modules._MODULE_TO_EXTENSIONS[NAME] = [".h5ad"]
    packaged_modules._MODULE_TO_METADATA_FILE_NAMES[NAME] = []
    # The first two are of datasets 5, the last is of datasets 4.
    getattr(packaged_modules, "_MODULE_TO_METADATA_EXTENSIONS", {})[NAME] = []
    for place, name in ((packaged_modules, "_ALL_ALLOWED_EXTENSIONS"), (datasets.load, "ALL_ALLOWED_EXTENSIONS")):
        extensions = getattr(place, name, [".h5ad"])
        if ".h5ad" not in extensions:
            extensions.append(".h5ad")


register()
