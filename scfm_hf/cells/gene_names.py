"""Which column of a file names the genes as a model wants them, and whether the names can be right at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfm_hf.cells.matrix import names_in, raw_of
from scfm_hf.errors import GeneIdError, VocabularyError
from scfm_hf.genes import is_ensembl_id, recognise_id_kind
from scfm_hf.genes.nomenclature import nomenclature
from scfm_hf.genes.tables import SPECIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

    from scfm_hf.cells.matrix import CellMatrix
    from scfm_hf.genes import GeneMapping, GeneVocabulary, MappingReport

# The columns that 10x, scanpy, CELLxGENE and Seurat converters write; only these are chosen by themselves.
_GENE_COLUMNS = frozenset(
    "ensembl ensembl_id ensembl_ids ensembl_gene_id gene gene_id gene_ids feature_id feature_ids "
    "symbol symbols gene_symbol gene_symbols hgnc_symbol gene_name gene_names gene_short_name feature_name".split()
)
_KINDS = {"ensembl_id": "Ensembl ids", "symbol": "gene symbols", "other": "the model's own names"}
_PREFIXES = {"human": "ENSG", "mouse": "ENSMUSG"}
# Enough names to tell what they are.
_LOOKED_AT = 5000
_SHOWN = 3


def choose_gene_column(
    adata: AnnData, *, id_kind: str, species: str | Sequence[str] | None = None, use_raw: bool = False
) -> str:
    """Choose the column of var that names the genes as a vocabulary does.

    Parameters
    ----------
    adata
        The file.
    id_kind
        What the vocabulary holds: ``"ensembl_id"`` or ``"symbol"``; anything else takes ``var_names``.
    species
        Species of the vocabulary; of two columns of the wanted kind, the one with more names of these is chosen.
    use_raw
        Look at ``raw.var``.

    Returns
    -------
    ``"var_names"``, or a column with a usual name (``ensembl_id``, ``gene_ids``, ``feature_name``, ...) more of whose
    values are of the wanted kind.
    """
    raw = raw_of(adata) if use_raw else None
    var = adata.var if raw is None else raw.var
    usual = [str(column) for column in var.columns if str(column).lower().replace(" ", "_") in _GENE_COLUMNS]
    names = {column: names_in(var, column) for column in ("var_names", *usual)}
    fitting = [column for column, values in names.items() if recognise_id_kind(values) == id_kind]
    if id_kind == "other" or not fitting or fitting == ["var_names"]:
        return "var_names"
    wanted = (species,) if isinstance(species, str) else tuple(species or ())

    def fit(column: str) -> tuple[float, float]:
        return _share(names[column], id_kind, wanted), _share(names[column], id_kind, SPECIES)

    return max(fitting, key=fit)  # the first of equal ones, which is var_names before any column


def check_identifiers(
    matrix: CellMatrix,
    mapping: GeneMapping,
    vocabulary: GeneVocabulary,
    *,
    species: str | None = None,
    min_overlap: float = 0.5,
) -> None:
    """Raise unless the names of a file are genes that the vocabulary knows.

    Parameters
    ----------
    matrix
        The file.
    mapping
        Its names mapped to the vocabulary.
    vocabulary
        The model's.
    species
        Species of the cells where it is known; None takes what the names tell.
    min_overlap
        Least share of the genes, and of the counts, that must be known. 0 allows anything.

    Raises
    ------
    GeneIdError
        If the matrix is transposed, the genes are of another species or kind, or none is known.
    VocabularyError
        If too few genes, or too small a share of the counts, are known.
    """
    if min_overlap <= 0:
        return
    report = mapping.report
    species = species or report.species
    if species and vocabulary.species and species not in vocabulary.species:
        raise GeneIdError(_other_species(matrix, report, vocabulary, species))
    counts_known = report.share_of_counts is None or report.share_of_counts >= min_overlap
    if report.share_of_genes >= min_overlap and counts_known:
        return
    refuse_transposed(matrix)
    of_another_kind = vocabulary.id_kind != "other" and report.id_kind != vocabulary.id_kind
    if of_another_kind and not _translated(report):
        raise GeneIdError(
            f"{_matched(report, min_overlap)} The model knows genes by {_KINDS[vocabulary.id_kind]} such as "
            f"{_first(vocabulary.gene_tokens)}; {matrix.gene_column} holds {_described(matrix, report)}. "
            f"{_better_column(matrix, vocabulary.id_kind)}"
        )
    advice = "" if report.id_kind == vocabulary.id_kind else f"{_better_column(matrix, vocabulary.id_kind)} "
    raise VocabularyError(
        f"{_matched(report, min_overlap)} First of the others: {_first(report.unmatched)}. {advice}If the file is "
        "right (a panel, or an annotation with many genes that the model leaves out), lower min_overlap=. The mapping "
        "in full is in the error's report.",
        report,
    )


def refuse_transposed(matrix: CellMatrix) -> None:
    """Raise GeneIdError if the rows are named like genes and the columns are not."""
    if _kind_of_some(matrix.gene_names) == "other" and _kind_of_some(matrix.cell_ids) != "other":
        raise GeneIdError(
            f"The matrix is transposed: its rows have names of genes ({_first(matrix.cell_ids)}), its columns have "
            f"not ({_first(matrix.gene_names)}). Pass adata.T, whose rows are the cells."
        )


def _translated(report: MappingReport) -> bool:
    """Whether names of another kind could be translated at all; then they are right, and too few are known."""
    ways = ("identifiers", "alias", "symbol_to_id", "id_to_symbol")
    return report.id_kind != "other" and any(way in report.ways for way in ways)


def _other_species(matrix: CellMatrix, report: MappingReport, vocabulary: GeneVocabulary, species: str) -> str:
    return (
        f"The genes of {matrix.gene_column} are those of {species} (first: {_first(matrix.gene_names)}), the model "
        f"knows {' and '.join(vocabulary.species)}: {_numbers(report)}. Use a model of {species}, or map the genes to "
        f"their orthologs with scfm_hf.genes.map_orthologs."
    )


def _matched(report: MappingReport, min_overlap: float) -> str:
    few = "Too few genes are in the model's vocabulary" if report.n_matched else "No gene is in the model's vocabulary"
    return f"{few}: {_numbers(report)}; at least {min_overlap:.0%} of both must be."


def _numbers(report: MappingReport) -> str:
    counts = "" if report.share_of_counts is None else f", with {report.share_of_counts:.1%} of the counts,"
    return f"{report.n_matched:,} of {report.n_genes:,} ({report.share_of_genes:.1%}){counts} match"


def _described(matrix: CellMatrix, report: MappingReport) -> str:
    kind = {"ensembl_id": "Ensembl ids", "symbol": "gene symbols", "other": "neither Ensembl ids nor gene symbols"}
    return f"{kind[report.id_kind]} (first: {_first(matrix.gene_names)})"


def _better_column(matrix: CellMatrix, id_kind: str) -> str:
    """Which column of var has names of the wanted kind, in words."""
    wanted = _KINDS[id_kind]
    if id_kind == "other":
        return f"Rename the genes to {wanted}, or name the column of var that has them with gene_column=."
    columns = [column for column in ("var_names", *_text_columns(matrix.var)) if column != matrix.gene_column]
    kinds = {column: _kind_of_some(np.array(names_in(matrix.var, column), dtype=np.str_)) for column in columns}
    better = [repr(column) for column, kind in kinds.items() if kind == id_kind]
    if better:
        return f"Pass gene_column={' or '.join(better)}, which holds {wanted}."
    return f"No other column of var holds {wanted}; add one and name it with gene_column=."


def _text_columns(var: pd.DataFrame) -> list[str]:
    return [
        column
        for column in var.columns
        if not pd.api.types.is_numeric_dtype(var[column]) and not pd.api.types.is_bool_dtype(var[column])
    ]


def _kind_of_some(names: np.ndarray) -> str:
    """What names are, from some of them taken at even distances."""
    return recognise_id_kind(map(str, names[:: len(names) // _LOOKED_AT + 1]))


def _share(names: Sequence[str], id_kind: str, species: Iterable[str]) -> float:
    """Share of names that are Ensembl ids or approved symbols of one of these species."""
    known = [one for one in species if one in SPECIES]
    if not names or not known:
        return 0.0
    if id_kind == "ensembl_id":
        prefixes = tuple(_PREFIXES[one] for one in known)
        return sum(name.upper().startswith(prefixes) and is_ensembl_id(name) for name in names) / len(names)
    symbols = frozenset().union(*(nomenclature(one).symbols for one in known))
    return sum(map(symbols.__contains__, names)) / len(names)


def _first(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name, _ in zip(names, range(_SHOWN), strict=False)) or "none"
