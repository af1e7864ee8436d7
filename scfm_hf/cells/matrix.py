"""A read-only view on the expression of an AnnData, in blocks of cells, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.cells.storage import read_rows
from scfm_hf.errors import ExpressionError, GeneIdError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData, Raw
    from numpy.typing import NDArray
    from scipy import sparse


@dataclass(frozen=True)
class CellBlock:
    """Some consecutive cells.

    Parameters
    ----------
    counts
        Expression, (n_cells, n_genes), in canonical form: indices sorted, no duplicates, no explicit zeros. float32,
        float64 or int64; its memory is the block's own.
    rows
        Where these cells stand in the AnnData.
    cell_ids
        Their names, (n_cells,).
    """

    counts: sparse.csr_array
    rows: slice
    cell_ids: NDArray[np.str_]


class CellMatrix:
    """The expression of an AnnData; nothing of the AnnData is ever changed.

    The same values give the same blocks, however they are stored: CSR, CSC or dense, of any numeric type, in memory or
    on disk, in X, a layer or raw, in an AnnData or a view of one.

    Parameters
    ----------
    adata
        In memory or backed, or a view of one.
    layer, use_raw
        Where the values are; X otherwise.
    gene_column
        Column of var (of ``raw.var`` with ``use_raw``) that names the genes; None or ``"var_names"`` takes the index.
        :func:`scfm_hf.cells.choose_gene_column` finds the one that fits a vocabulary.

    Raises
    ------
    ExpressionError
        If there is no such layer, no raw, or no X.
    GeneIdError
        If var has no such column.
    """

    def __init__(
        self, adata: AnnData, *, layer: str | None = None, use_raw: bool = False, gene_column: str | None = None
    ) -> None:
        _refuse_what_is_not_there(adata, layer, use_raw)
        self.adata, self.layer, self.use_raw = adata, layer, use_raw
        self.gene_column = gene_column or "var_names"
        self.gene_names: NDArray[np.str_] = np.array(names_in(self.var, self.gene_column), dtype=np.str_)
        self.cell_ids: NDArray[np.str_] = np.array(names_in(adata.obs, "obs_names"), dtype=np.str_)

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells."""
        return self.adata.obs

    @property
    def var(self) -> pd.DataFrame:
        """Annotation of the columns."""
        return self.adata.raw.var if self.use_raw else self.adata.var

    @property
    def place(self) -> str:
        """Where the values are, in words: ``X``, ``raw.X`` or ``layers['counts']``."""
        return "raw.X" if self.use_raw else "X" if self.layer is None else f"layers[{self.layer!r}]"

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cell_ids)

    @property
    def n_genes(self) -> int:
        """Number of columns."""
        return len(self.gene_names)

    def blocks(self, block_size: int = 2048) -> Iterator[CellBlock]:
        """All cells in their order, ``block_size`` at a time; no block for no cell."""
        values, rows, columns = self._stored()
        start = 0
        for counts in read_rows(values, rows, columns, block_size=block_size):
            block = slice(start, start + counts.shape[0])
            yield CellBlock(counts, block, self.cell_ids[block])
            start = block.stop

    def _stored(self) -> tuple[Any, NDArray[np.int64], NDArray[np.int64] | None]:
        """The matrix as it is stored, and which of its rows and columns the AnnData shows.

        The matrix of a view is taken from the AnnData that it looks at, so that it is read by blocks as well: the
        view's own X, layers and raw are copies, made anew each time.
        """
        source, rows, columns = self.adata, slice(None), slice(None)
        if source.is_view:
            source, rows, columns = source._adata_ref, source._oidx, source._vidx
        if self.use_raw:
            values, columns = source.raw.X, slice(None)
        else:
            values = source.X if self.layer is None else source.layers[self.layer]
        return values, np.arange(values.shape[0])[rows], _positions(columns, values.shape[1])


def names_in(table: pd.DataFrame, column: str) -> list[str]:
    """Names that a column of var or obs gives; ``"var_names"`` and ``"obs_names"`` are the index, a missing name is ''.

    Raises
    ------
    GeneIdError
        If there is no such column.
    """
    if column in ("var_names", "obs_names"):
        return list(map(str, table.index))
    if column not in table:
        has = ", ".join(map(repr, table.columns)) or "none"
        raise GeneIdError(f'var has no column {column!r}; it has {has}. gene_column="var_names" takes the index.')
    named = table[column].notna()
    return [str(name) if known else "" for name, known in zip(table[column], named, strict=True)]


def raw_of(adata: AnnData) -> Raw | None:
    """The raw of an AnnData, None if there is none.

    anndata gives a backed file whose raw is stored as null a raw without columns, whose X cannot be read.
    """
    return adata.raw if adata.raw is not None and adata.raw.n_vars else None


def _refuse_what_is_not_there(adata: AnnData, layer: str | None, use_raw: bool) -> None:
    layers = ", ".join(map(repr, adata.layers)) or "none"
    if layer is not None and use_raw:
        raise ExpressionError("Give either layer= or use_raw=True, not both.")
    if use_raw and raw_of(adata) is None:
        raise ExpressionError(f"The AnnData has no raw. Leave use_raw= out, or name a layer; it has {layers}.")
    if layer is not None and layer not in adata.layers:
        raise ExpressionError(f"The AnnData has no layer {layer!r}; it has {layers}.")
    parent = adata._adata_ref if adata.is_view else adata
    if layer is None and not use_raw and parent.X is None:
        raise ExpressionError(
            f"The AnnData has no X. Name the layer that holds the values with layer=; it has {layers}."
        )


def _positions(index: Any, size: int) -> NDArray[np.int64] | None:
    """Positions that an index of a view stands for; None for all of them in order."""
    positions = np.arange(size)[index]
    return None if np.array_equal(positions, np.arange(size)) else positions
