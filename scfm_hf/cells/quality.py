"""What is in a file: sizes, raw or not, names, species, quality figures. For ``scfm inspect``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.cells.checks import check_expression
from scfm_hf.cells.gene_names import choose_gene_column
from scfm_hf.cells.matrix import CellMatrix
from scfm_hf.errors import ScfmError
from scfm_hf.genes import recognise_id_kind, recognise_species

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class CellsReport:
    """What a file holds; ``str`` gives lines to read.

    Parameters
    ----------
    n_cells, n_genes
        Size.
    places
        Where values are (``X``, ``raw``, layers) -> ``counts``, ``log-normalised or scaled``, or what is wrong.
    id_kind, species
        What ``var_names`` are, and of which species, as recognised.
    id_columns
        Kind of name -> the column of var that has it.
    median_total, median_genes
        Median total and number of genes of a cell, of the first place with counts; None without counts.
    mitochondrial_share
        Median share of mitochondrial counts; None without counts or such genes.
    n_empty_cells
        Cells without a value in X.
    obs_columns
        Columns of obs.
    """

    n_cells: int
    n_genes: int
    places: dict[str, str]
    id_kind: str
    species: str | None
    id_columns: dict[str, str]
    median_total: float | None
    median_genes: float | None
    mitochondrial_share: float | None
    n_empty_cells: int
    obs_columns: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.n_cells:,} cells, {self.n_genes:,} genes"]
        lines += [f"{place}: {what}" for place, what in self.places.items()]
        species = self.species or "species not recognised"
        lines.append(f"var_names: {self.id_kind.replace('_', ' ')}s, {species}")
        lines += [f"{kind.replace('_', ' ')}s: {column}" for kind, column in self.id_columns.items()]
        if self.median_total is not None:
            lines.append(f"median a cell: {self.median_total:,.0f} counts, {self.median_genes:,.0f} genes")
        if self.mitochondrial_share is not None:
            lines.append(f"median share of mitochondrial counts: {self.mitochondrial_share:.1%}")
        if self.n_empty_cells:
            lines.append(f"cells without a count: {self.n_empty_cells:,}")
        lines.append(f"obs: {', '.join(self.obs_columns) or 'no column'}")
        return "\n".join(lines)


def inspect_cells(adata: AnnData) -> CellsReport:
    """Look at a file; every value is read once.

    Parameters
    ----------
    adata
        In memory or backed; not changed.
    """
    options: dict[str, dict[str, Any]] = {} if adata.X is None else {"X": {}}
    options |= {} if adata.raw is None else {"raw": {"use_raw": True}}
    options |= {f"layer {name}": {"layer": name} for name in adata.layers}
    places = {place: _kind(CellMatrix(adata, **where)) for place, where in options.items()}
    counts = next((CellMatrix(adata, **options[place]) for place, kind in places.items() if kind == "counts"), None)
    names = list(map(str, adata.var_names))
    columns = {kind: choose_gene_column(adata, id_kind=kind) for kind in ("ensembl_id", "symbol")}
    found = check_expression(counts, empty_cells="keep") if counts is not None else None
    return CellsReport(
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        places=places,
        id_kind=recognise_id_kind(names),
        species=recognise_species(names),
        id_columns={kind: column for kind, column in columns.items() if column != "var_names"},
        median_total=float(np.median(found.totals)) if found is not None else None,
        median_genes=float(np.median(found.n_genes)) if found is not None else None,
        mitochondrial_share=_mitochondrial_share(adata, counts),
        n_empty_cells=len(found.empty_cells) if found is not None else 0,
        obs_columns=tuple(map(str, adata.obs.columns)),
    )


def _kind(matrix: CellMatrix) -> str:
    """What the values are, in a few words."""
    try:
        report = check_expression(matrix, expects="any", empty_cells="keep")
    except ScfmError as error:
        return f"not usable: {error}"
    return "counts" if report.whole_numbers else "no counts (normalised)"


def _mitochondrial_share(adata: AnnData, counts: CellMatrix | None) -> float | None:
    if counts is None:
        return None
    column = choose_gene_column(adata, id_kind="symbol")
    symbols = adata.var_names if column == "var_names" else adata.var[column]
    wanted = np.array([str(name).upper().startswith("MT-") for name in symbols])
    if counts.use_raw or not wanted.any():
        return None
    shares = []
    for block in counts.blocks():
        totals = np.asarray(block.counts.sum(1)).ravel()
        of_these = np.asarray(block.counts[:, np.flatnonzero(wanted)].sum(1)).ravel()
        shares.append(of_these[totals > 0] / totals[totals > 0])
    return float(np.median(np.concatenate(shares)))
