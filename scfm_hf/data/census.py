"""The cells of CELLxGENE Census, or of any SOMA store that is laid out like it, chosen by a query on obs.

Census is read through its own client, ``cellxgene_census`` for a release and the ``tiledbsoma`` under it for a store, a
block of cells at a time; nothing is downloaded as a whole. Needs the extra ``census``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np

from scfm_hf.data.cell_files import StoredCells
from scfm_hf.data.stored_rows import Rows
from scfm_hf.errors import CorpusError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SCHEME = "census://"
# Memory that the client sets aside for a column of one read; its own default is a gigabyte.
_BUFFER_BYTES = 16 * 1024**2


@dataclass(frozen=True, kw_only=True)
class CensusQuery:
    """Cells of a Census, given to :func:`scfm_hf.load_corpus` in the place of a file.

    Parameters
    ----------
    organism
        Whose cells, as Census calls it.
    obs_value_filter
        Which of them, such as ``"is_primary_data == True and tissue_general == 'lung'"``; all if not given.
    uri
        The store: a folder, or a URL that ``tiledbsoma`` can read; None has ``cellxgene_census`` open ``version``.
    version
        Release of Census. A corpus that is to be read again names one, as ``stable`` changes.

    Examples
    --------
    >>> str(CensusQuery(organism="mus_musculus", obs_value_filter="is_primary_data == True"))
    'census://mus_musculus?obs_value_filter=is_primary_data%20%3D%3D%20True&version=stable'
    """

    organism: str = "homo_sapiens"
    obs_value_filter: str | None = None
    uri: str | None = None
    version: str = "stable"

    def __str__(self) -> str:
        options = {"obs_value_filter": self.obs_value_filter, "uri": self.uri}
        options["version"] = self.version if self.uri is None else None
        given = {name: value for name, value in options.items() if value is not None}
        return f"{SCHEME}{self.organism}?{urlencode(given, quote_via=quote)}"

    def __fspath__(self) -> str:
        return str(self)

    @classmethod
    def from_url(cls, url: str) -> CensusQuery:
        """The query that a URL stands for.

        Raises
        ------
        CorpusError
            If it has parts that a query does not have.
        """
        organism, _, options = url.removeprefix(SCHEME).partition("?")
        try:
            return cls(organism=organism or "homo_sapiens", **dict(parse_qsl(options, strict_parsing=bool(options))))
        except (TypeError, ValueError) as error:
            raise CorpusError(
                f"it is no query of Census ({error}); write one with scfm_hf.data.census.CensusQuery"
            ) from error


def open_census(place: str, *, layer: str | None = None) -> StoredCells:
    """Open the cells of a query, in the order of their ``soma_joinid``, which is also their name.

    Parameters
    ----------
    place
        ``str`` of a :class:`CensusQuery`.
    layer
        A layer of X; ``raw`` if not given.

    Raises
    ------
    CorpusError
        If the store is no Census, has no such organism or layer, or the filter cannot be understood.
    MissingExtraError
        If the client is not installed.
    """
    try:
        import tiledbsoma
    except ImportError as error:
        raise MissingExtraError("tiledbsoma", "census") from error

    query = CensusQuery.from_url(place)
    try:
        census = _opened(query)
        data = census["census_data"]
        if query.organism not in data:
            raise CorpusError(f"it has no organism {query.organism!r}; it has {', '.join(map(repr, sorted(data)))}")
        experiment = data[query.organism]
        measured = experiment.ms["RNA"]
        layer = layer or "raw"
        if layer not in measured.X:
            raise CorpusError(f"it has no layer {layer!r}; it has {', '.join(map(repr, sorted(measured.X)))}")
        filtered = {"value_filter": query.obs_value_filter} if query.obs_value_filter else {}
        cells = np.sort(
            experiment.obs.read(column_names=["soma_joinid"], **filtered).concat()["soma_joinid"].to_numpy()
        )
        var = measured.var.read().concat().to_pandas().sort_values("soma_joinid")
        rows = _SomaRows(measured.X[layer], cells, var.pop("soma_joinid").to_numpy())
        names = next((name for name in ("feature_id", "var_id") if name in var), var.columns[0])
        var = var.set_index(names, drop=False).rename_axis(None)
        return StoredCells(place, rows, var, _SomaObs(experiment.obs, cells), census.close, sorted(measured.X))
    except tiledbsoma.SOMAError as error:
        raise CorpusError(str(error)) from error


def _opened(query: CensusQuery) -> Any:
    import tiledbsoma

    configuration = {"soma.init_buffer_bytes": _BUFFER_BYTES}
    if query.uri is not None:
        return tiledbsoma.Collection.open(query.uri, context=tiledbsoma.SOMATileDBContext(tiledb_config=configuration))
    try:
        import cellxgene_census
    except ImportError as error:
        raise MissingExtraError("cellxgene-census", "census") from error
    try:
        return cellxgene_census.open_soma(census_version=query.version, tiledb_config=configuration)
    except ValueError as error:
        raise CorpusError(f"Census has no release {query.version!r} ({error})") from error
    except OSError as error:
        raise CorpusError(
            f"the list of Census releases cannot be reached ({error}); give uri= to read a store without it"
        ) from error


class _SomaRows:
    """Counts of some cells of a sparse SOMA array."""

    def __init__(self, array: Any, cells: NDArray[np.int64], genes: NDArray[np.int64]) -> None:
        self._array, self._cells, self._genes = array, cells, genes
        self.n_rows, self.n_columns = len(cells), len(genes)

    def read(self, start: int, stop: int) -> Rows:
        """Rows from ``start`` to before ``stop``."""
        cells = self._cells[start:stop]
        if not len(cells):
            return Rows(np.empty(0, np.float32), np.empty(0, np.int64), np.zeros(1, np.int64))
        found = self._array.read((cells, slice(None))).tables().concat()
        rows = np.searchsorted(cells, found["soma_dim_0"].to_numpy())
        genes = found["soma_dim_1"].to_numpy()
        columns = np.searchsorted(self._genes, genes)
        if (self._genes[np.minimum(columns, self.n_columns - 1)] != genes).any():
            raise CorpusError("values stand in columns that var does not name")
        order = np.lexsort((columns, rows))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(cells)))]).astype(np.int64)
        return Rows(found["soma_data"].to_numpy()[order], columns[order], offsets)

    def lengths(self) -> None:
        """Not known."""

    def structure(self) -> memoryview:
        """Which cells the query gives."""
        return self._cells.data


class _SomaObs:
    """Annotation of some cells of a SOMA data frame."""

    def __init__(self, frame: Any, cells: NDArray[np.int64]) -> None:
        self._frame, self._cells = frame, cells
        self.columns: tuple[str, ...] = tuple(name for name in frame.schema.names if name != "soma_joinid")

    def read(self, name: str) -> pd.api.extensions.ExtensionArray:
        """One column, in full."""
        table = self._frame.read((self._cells,), column_names=["soma_joinid", name]).concat().to_pandas()
        return table.sort_values("soma_joinid")[name].array

    def ids(self, start: int, stop: int) -> NDArray[np.str_]:
        """Names of some cells: what Census counts them by."""
        return self._cells[start:stop].astype(np.str_)
