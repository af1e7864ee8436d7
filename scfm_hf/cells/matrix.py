"""A read-only view on the expression of an AnnData, in blocks of cells, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scfm_hf.errors import ExpressionError, GeneIdError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True)
class CellBlock:
    """Some consecutive cells.

    Parameters
    ----------
    counts
        Expression, (n_cells, n_genes), in canonical form: indices sorted, no duplicates, no explicit zeros.
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

    Parameters
    ----------
    adata
        In memory or backed; the values may be CSR, CSC or dense, of any numeric dtype.
    layer, use_raw
        Where the values are; X otherwise.
    gene_column
        Column of var that names the genes; None or ``"var_names"`` takes the index.

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
        self._values, var = _values_and_var(adata, layer, use_raw)
        self.adata, self.layer, self.use_raw = adata, layer, use_raw
        self.gene_column = gene_column or "var_names"
        if self.gene_column != "var_names" and self.gene_column not in var:
            has = ", ".join(map(repr, var.columns)) or "none"
            raise GeneIdError(f'var has no column {gene_column!r}; it has {has}. "var_names" takes the index.')
        names = var.index.to_series() if self.gene_column == "var_names" else var[self.gene_column]
        self.gene_names: NDArray[np.str_] = names.astype(object).fillna("").to_numpy().astype(str)
        self.cell_ids: NDArray[np.str_] = adata.obs_names.to_numpy().astype(str)

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells."""
        return self.adata.obs

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self._values.shape[0])

    @property
    def n_genes(self) -> int:
        """Number of columns."""
        return int(self._values.shape[1])

    def blocks(self, block_size: int = 2048) -> Iterator[CellBlock]:
        """All cells in their order, ``block_size`` at a time."""
        values = self._by_rows()
        for start in range(0, self.n_cells, block_size):
            rows = slice(start, min(start + block_size, self.n_cells))
            yield CellBlock(_canonical(values[rows]), rows, self.cell_ids[rows])

    def _by_rows(self) -> Any:
        """The values in a form whose rows are cheap to take: CSC is turned once, not once a block."""
        values = self._values
        if getattr(values, "format", None) == "csc":
            values = values.to_memory() if hasattr(values, "to_memory") else values
            return values.tocsr()
        return values


def _values_and_var(adata: AnnData, layer: str | None, use_raw: bool) -> tuple[Any, pd.DataFrame]:
    if layer is not None and use_raw:
        raise ExpressionError("Give either layer= or use_raw=True, not both.")
    if use_raw:
        if adata.raw is None:
            raise ExpressionError("use_raw=True, but the AnnData has no raw.")
        return adata.raw.X, adata.raw.var
    if layer is not None and layer not in adata.layers:
        has = ", ".join(map(repr, adata.layers)) or "none"
        raise ExpressionError(f"The AnnData has no layer {layer!r}; it has {has}.")
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        has = ", ".join(map(repr, adata.layers)) or "none"
        raise ExpressionError(f"The AnnData has no X. Name the layer that holds the values with layer=; it has {has}.")
    return values, adata.var


def _canonical(values: Any) -> sparse.csr_array:
    """Canonical CSR of some rows; the input stays as it is."""
    if not sparse.issparse(values):
        return sparse.csr_array(_computable(np.asarray(values)))
    given = values if values.format == "csr" else values.tocsr()
    block = sparse.csr_array((_computable(given.data), given.indices, given.indptr), shape=given.shape)
    if not block.has_canonical_format or not block.data.all():
        # The arrays may be those of the AnnData: what sums and sorts in place needs its own.
        block = block.copy()
        block.sum_duplicates()
        block.eliminate_zeros()
    return block


def _computable(values: NDArray[Any]) -> NDArray[Any]:
    """Types that SciPy cannot multiply or whose sums overflow, as wider ones of the same values."""
    if values.dtype.kind == "b" or values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize < 4:
        return values.astype(np.int32)
    if values.dtype.kind not in "iuf":
        raise ExpressionError(f"The values are of type {values.dtype}, not numbers.")
    return values
