"""Reference cells: their embeddings, what is known of each, and exact search among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from scfm_hf.errors import CheckpointError
from scfm_hf.folders import whole_folder
from scfm_hf.models.scimilarity.hnswlib_scimilarity import read_hnswlib

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

_EMBEDDINGS, _METADATA = "reference.safetensors", "reference.parquet"


@dataclass(frozen=True)
class Hits:
    """Cells that a search found, by query, nearest first.

    Parameters
    ----------
    queries, cells
        Number of the query and of the reference cell, int64, (n_hits,).
    distances
        1 - cosine similarity, float64, (n_hits,).
    n_queries
        Number of queries, those without a hit included.
    """

    queries: NDArray[np.int64]
    cells: NDArray[np.int64]
    distances: NDArray[np.float64]
    n_queries: int

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Hits of each query, int64, (n_queries,)."""
        return np.bincount(self.queries, minlength=self.n_queries)

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cells and distances of one query."""
        chosen = self.queries == query
        return self.cells[chosen], self.distances[chosen]

    def table(self, reference: CellReference) -> pd.DataFrame:
        """A line a hit: ``query``, ``cell``, ``distance``, and what is known of the cell."""
        found = {"query": self.queries, "cell": self.cells, "distance": self.distances}
        known = reference.metadata.iloc[self.cells].reset_index(drop=True)
        return pd.DataFrame(found).join(known, rsuffix="_in_reference")


class CellReference:
    """Cells to search among, such as the labelled cells of a model or an atlas.

    Parameters
    ----------
    embeddings
        Embeddings by the model that the queries will come from, (n_cells, latent_size); brought to length 1.
    metadata
        A line a cell, in the same order; its index is of no account.

    Raises
    ------
    ValueError
        If they differ in length, or an embedding is not finite or zero.
    """

    def __init__(self, embeddings: ArrayLike, metadata: pd.DataFrame) -> None:
        self.embeddings = _unit(embeddings, "the reference")
        self.metadata = metadata.reset_index(drop=True)
        if len(self.embeddings) != len(self.metadata):
            raise ValueError(f"There are {len(self.embeddings)} embeddings, and {len(metadata)} lines of metadata.")

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def from_hnswlib(cls, index: str | os.PathLike[str], metadata: str | os.PathLike[str] | pd.DataFrame) -> Self:
        """Read a reference as the authors publish it.

        Parameters
        ----------
        index
            ``annotation/labelled_kNN.bin`` or ``cellsearch/full_kNN.bin``, an index file of hnswlib.
        metadata
            ``annotation/reference_labels.tsv`` (its columns become ``label`` and ``study``), a csv or parquet file, or
            a table. The TileDB table of ``cellsearch/cell_metadata`` is exported with
            ``tiledb.open_dataframe(path).to_parquet(...)``.

        Raises
        ------
        CheckpointError
            If a file is damaged, or the two do not belong together.
        """
        embeddings = read_hnswlib(Path(index))
        table = metadata if isinstance(metadata, pd.DataFrame) else _read_metadata(Path(metadata))
        if len(table) != len(embeddings):
            raise CheckpointError(
                f"{index} holds {len(embeddings)} cells, the metadata {len(table)}: they do not belong together."
            )
        return cls(embeddings, table)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        embeddings = load_file(Path(folder) / _EMBEDDINGS)["embeddings"]
        return cls(embeddings, pd.read_parquet(Path(folder) / _METADATA))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write embeddings (safetensors) and metadata (parquet) into a new folder.

        Raises
        ------
        FileExistsError
            If the folder is there.
        """
        with whole_folder(folder) as new:
            save_file({"embeddings": np.ascontiguousarray(self.embeddings)}, new / _EMBEDDINGS)
            self.metadata.to_parquet(new / _METADATA)

    def matching(self, **values: Any) -> NDArray[np.bool_]:
        """Cells whose metadata have these values, or one of several: ``matching(tissue="lung", label=["B cell"])``.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        chosen = np.ones(len(self), bool)
        for name, wanted in values.items():
            if name not in self.metadata:
                known = ", ".join(map(str, self.metadata.columns))
                raise KeyError(f"The reference has no column {name!r}. It has: {known}.")
            options = [wanted] if isinstance(wanted, str) or not np.iterable(wanted) else list(wanted)
            chosen &= self.metadata[name].isin(options).to_numpy()
        return chosen

    def nearest(self, queries: ArrayLike, *, n_neighbors: int = 50, among: NDArray[np.bool_] | None = None) -> Hits:
        """The nearest cells of each query, by exact search.

        Parameters
        ----------
        queries
            Embeddings, (n_queries, latent_size).
        n_neighbors
            Cells a query.
        among
            Cells that may be found, bool, (n_cells,), from :meth:`matching`; None: all.

        Returns
        -------
        ``n_neighbors`` hits a query: ``hits.cells.reshape(n_queries, n_neighbors)``.

        Raises
        ------
        ValueError
            If there are fewer cells than that, or a query is not finite or zero.
        """
        index, numbers = self._index(among)
        if not 0 < n_neighbors <= len(numbers):
            raise ValueError(f"n_neighbors={n_neighbors}, and there are {len(numbers)} cells to find.")
        points = _unit(queries, "the queries")
        squared, found = index.kneighbors(points, n_neighbors=n_neighbors)
        rows = np.repeat(np.arange(len(points)), n_neighbors)
        # Half the squared distance of unit vectors is 1 - cosine.
        return Hits(rows, numbers[found.reshape(-1)], squared.reshape(-1).astype(np.float64) / 2, len(points))

    def within(self, queries: ArrayLike, *, max_distance: float, among: NDArray[np.bool_] | None = None) -> Hits:
        """All cells up to a distance (1 - cosine) of each query, by exact search; see :meth:`nearest`."""
        index, numbers = self._index(among)
        points = _unit(queries, "the queries")
        squared, found = index.radius_neighbors(points, radius=2 * max_distance, sort_results=True)
        rows = np.repeat(np.arange(len(points)), [len(one) for one in found])
        cells = numbers[np.concatenate(found).astype(np.int64)]
        return Hits(rows, cells, np.concatenate(squared).astype(np.float64) / 2, len(points))

    def _index(self, among: NDArray[np.bool_] | None) -> tuple[Any, NDArray[np.int64]]:
        """An index of the cells that may be found, and their numbers."""
        from sklearn.neighbors import NearestNeighbors

        numbers = np.arange(len(self)) if among is None else np.flatnonzero(among)
        if not len(numbers):
            raise ValueError("No cell of the reference is as asked: there is nothing to search among.")
        points = self.embeddings if among is None else self.embeddings[numbers]
        return NearestNeighbors(algorithm="brute", metric="sqeuclidean").fit(points), numbers


def _unit(embeddings: ArrayLike, what: str) -> NDArray[np.float32]:
    """Embeddings at length 1, float32."""
    given = np.atleast_2d(np.asarray(embeddings, np.float32))
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} embeddings of {what} are zero or not finite (first: {bad[:5].tolist()}). Leave them out."
        )
    return given / lengths


def _read_metadata(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.name == "reference_labels.tsv":
        return pd.read_csv(path, sep="\t", header=None, names=["label", "study"], dtype=str, keep_default_na=False)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
