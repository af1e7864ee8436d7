"""What is in a file: sizes, raw or not, names, species, quality figures. For ``scfm inspect``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.cells.expression import measure_expression
from scfm_hf.cells.gene_names import choose_gene_column
from scfm_hf.cells.matrix import CellMatrix, names_in, raw_of
from scfm_hf.errors import ExpressionError
from scfm_hf.genes import gene_table, recognise_id_kind, recognise_species, strip_version
from scfm_hf.genes.tables import SPECIES

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.cells.expression import ExpressionReport
    from scfm_hf.genes import GeneMapper, MappingReport

_KINDS = {
    "counts": "raw counts",
    "log": "log-normalised",
    "normalised": "normalised, not logarithms",
    "negative": "scaled or corrected (negative values)",
    "not finite": "damaged (NaN or infinite values)",
    "nothing": "nothing but zeros",
}
# Columns of obs with more values than these are names or numbers, not groups of cells.
_MOST_GROUPS = 100


@dataclass(frozen=True, kw_only=True)
class CellsReport:
    """What a file holds; ``str`` gives lines to read.

    Parameters
    ----------
    n_cells, n_genes
        Size.
    places
        Where values are (``X``, ``raw``, ``layer counts``) -> what they are, such as ``raw counts``.
    counts_place
        The first place with raw counts, from which the figures below are; None if there is none, which leaves them
        out.
    id_kind, species
        What ``var_names`` are, and of which species, as recognised.
    id_columns
        Kind of name -> the column of var that has it.
    n_repeated_genes, n_repeated_cells
        Names of genes and of cells that stand there a second or further time.
    median_total, median_genes
        Median total, and number of genes, of a cell.
    mitochondrial_share
        Median share of a cell's counts that is of mitochondrial genes; None if the file has none of these.
    n_empty_cells, n_empty_genes
        Cells and genes without a count.
    groups
        Column of obs -> the number of groups, for columns of at most a hundred.
    vocabulary
        How the genes match a model's vocabulary, if one was given.
    """

    n_cells: int
    n_genes: int
    places: dict[str, str]
    counts_place: str | None
    id_kind: str
    species: str | None
    id_columns: dict[str, str]
    n_repeated_genes: int
    n_repeated_cells: int
    median_total: float | None
    median_genes: float | None
    mitochondrial_share: float | None
    n_empty_cells: int | None
    n_empty_genes: int | None
    groups: dict[str, int]
    vocabulary: MappingReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, as JSON takes them."""
        return asdict(self) | {"vocabulary": None if self.vocabulary is None else self.vocabulary.to_dict()}

    def __str__(self) -> str:
        kind = {"ensembl_id": "Ensembl ids", "symbol": "gene symbols", "other": "neither Ensembl ids nor gene symbols"}
        lines = [f"{self.n_cells:,} cells, {self.n_genes:,} genes"]
        lines += [f"{place}: {what}" for place, what in self.places.items()]
        lines.append(f"var_names: {kind[self.id_kind]}, {self.species or 'species not recognised'}")
        lines += [f"var[{column!r}]: {kind[of_kind]}" for of_kind, column in self.id_columns.items()]
        if self.n_repeated_genes or self.n_repeated_cells:
            lines.append(f"repeated names: {self.n_repeated_genes:,} of genes, {self.n_repeated_cells:,} of cells")
        lines += self._figures()
        groups = (f"{column} ({number})" for column, number in self.groups.items())
        lines.append(f"groups in obs: {', '.join(groups) or 'none'}")
        if self.vocabulary is not None:
            lines.append(f"vocabulary: {self.vocabulary}")
        return "\n".join(lines)

    def _figures(self) -> list[str]:
        if self.counts_place is None:
            return ["no raw counts anywhere: models that take counts cannot use this file"]
        lines = [
            f"median of a cell in {self.counts_place}: {self.median_total:,.0f} counts, {self.median_genes:,.0f} genes"
        ]
        if self.mitochondrial_share is not None:
            lines.append(f"mitochondrial counts: {self.mitochondrial_share:.1%} of a cell (median)")
        lines.append(f"without a count: {self.n_empty_cells:,} cells, {self.n_empty_genes:,} genes")
        return lines


def inspect_cells(adata: AnnData, *, mapper: GeneMapper | None = None) -> CellsReport:
    """Look at a file; every value of X, the layers and raw is read once, and no value raises.

    Parameters
    ----------
    adata
        In memory or backed; not changed.
    mapper
        Of the model whose vocabulary the genes are to be matched to, such as ``tokenizer.mapper``.
    """
    names = names_in(adata.var, "var_names")
    columns = {kind: choose_gene_column(adata, id_kind=kind) for kind in ("ensembl_id", "symbol")}
    measured = {place: _measure(adata, options) for place, options in _places(adata).items()}
    counts = next((place for place, found in measured.items() if found is not None and found.kind == "counts"), None)
    found = None if counts is None else measured[counts]
    return CellsReport(
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        places={place: "no numbers" if one is None else _KINDS[one.kind] for place, one in measured.items()},
        counts_place=counts,
        id_kind=recognise_id_kind(names),
        species=recognise_species(names),
        id_columns={kind: column for kind, column in columns.items() if column != "var_names"},
        n_repeated_genes=int(adata.var_names.duplicated().sum()),
        n_repeated_cells=int(adata.obs_names.duplicated().sum()),
        groups=_groups(adata.obs),
        vocabulary=None if mapper is None else _match(adata, mapper, None if counts == "raw" else found),
        **_figures(found, adata.raw.var if counts == "raw" else adata.var),
    )


def _places(adata: AnnData) -> dict[str, dict[str, Any]]:
    """Every place of values -> the options that name it."""
    parent = adata._adata_ref if adata.is_view else adata  # looking at the X of a view would copy it
    places: dict[str, dict[str, Any]] = {} if parent.X is None else {"X": {}}
    places |= {f"layer {name}": {"layer": name} for name in adata.layers}
    return places if raw_of(adata) is None else places | {"raw": {"use_raw": True}}


def _measure(adata: AnnData, options: dict[str, Any]) -> ExpressionReport | None:
    """What a place holds; None if its values are no numbers."""
    matrix = CellMatrix(adata, **options)
    try:
        return measure_expression(matrix, subset=_is_mitochondrial(matrix.var))
    except ExpressionError:
        return None


def _figures(found: ExpressionReport | None, var: pd.DataFrame) -> dict[str, Any]:
    if found is None:
        names = ("median_total", "median_genes", "mitochondrial_share", "n_empty_cells", "n_empty_genes")
        return dict.fromkeys(names)
    filled = found.totals > 0
    share = float(np.median(found.subset_totals[filled] / found.totals[filled]))
    return {
        "median_total": float(np.median(found.totals)),
        "median_genes": float(np.median(found.n_genes)),
        "mitochondrial_share": share if _is_mitochondrial(var).any() else None,
        "n_empty_cells": len(found.empty_cells),
        "n_empty_genes": int((found.gene_totals == 0).sum()),
    }


def _is_mitochondrial(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a gene is named as one of the mitochondrion: MT- or mt-, or the Ensembl id of one on chrM."""
    ids, names = _mitochondrial_ids(), names_in(var, "var_names")
    return np.array([name.upper().startswith("MT-") or strip_version(name) in ids for name in names], dtype=np.bool_)


@cache
def _mitochondrial_ids() -> frozenset[str]:
    tables = (gene_table(species) for species in SPECIES)
    return frozenset().union(*(genes.loc[genes["chrom"] == "chrM", "ensembl_id"] for genes in tables))


def _match(adata: AnnData, mapper: GeneMapper, found: ExpressionReport | None) -> MappingReport:
    vocabulary = mapper.vocabulary
    column = choose_gene_column(adata, id_kind=vocabulary.id_kind, species=vocabulary.species)
    totals = None if found is None else found.gene_totals
    return mapper.map(names_in(adata.var, column), counts_per_gene=totals).report


def _groups(obs: pd.DataFrame) -> dict[str, int]:
    sizes = {str(name): int(obs[name].nunique()) for name in obs.columns if obs[name].dtype.kind not in "fc"}
    return {name: size for name, size in sizes.items() if 0 < size <= _MOST_GROUPS}
