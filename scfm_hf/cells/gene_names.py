"""Which column of a file names the genes as a model wants them, and whether the names can be right at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scfm_hf.errors import GeneIdError, VocabularyError
from scfm_hf.genes import is_ensembl_id, recognise_id_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

    from scfm_hf.cells.matrix import CellMatrix
    from scfm_hf.genes import GeneMapping, GeneVocabulary

#: Names that people give to columns of gene symbols, and of Ensembl ids; only these are ever chosen by themselves.
_SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "symbol", "feature_name", "gene_name", "gene_names", "gene_short_name")
_ID_COLUMNS = ("ensembl_id", "ensembl_ids", "gene_id", "gene_ids", "feature_id", "ensembl", "gene")


def choose_gene_column(adata: AnnData, *, id_kind: str, species: str | None = None) -> str:
    """The column of var whose values are names of the wanted kind, ``"var_names"`` if that is the best there is.

    Parameters
    ----------
    adata
        The file.
    id_kind
        ``"ensembl_id"`` or ``"symbol"``: what the vocabulary holds. Anything else takes ``var_names``.
    species
        Species of the vocabulary; not needed to choose.
    """
    del species
    if id_kind == "ensembl_id":
        shares = {"var_names": _share_of_ids(adata.var_names)}
        shares |= {name: _share_of_ids(adata.var[name]) for name in _ID_COLUMNS if name in adata.var}
        best = max(shares, key=lambda name: shares[name])
        return best if shares[best] > max(shares["var_names"], 0.5) else "var_names"
    if id_kind == "symbol" and _share_of_ids(adata.var_names) > 0.5:
        for name in _SYMBOL_COLUMNS:
            if name in adata.var and recognise_id_kind(_texts(adata.var[name])) == "symbol":
                return name
    return "var_names"


def check_identifiers(
    matrix: CellMatrix, mapping: GeneMapping, vocabulary: GeneVocabulary, *, min_overlap: float = 0.5
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
    report, names = mapping.report, matrix.gene_names
    _refuse_transposed(matrix)
    if report.species is not None and vocabulary.species and report.species not in vocabulary.species:
        wanted = " or ".join(vocabulary.species)
        raise GeneIdError(
            f"The genes are those of {report.species} (first: {_first(names)}), the model knows {wanted}. Map them to "
            f"orthologs first: scfm_hf.genes.map_orthologs(names, source={report.species!r}, target=...)."
        )
    if report.n_matched == 0:
        raise GeneIdError(
            f"None of the {report.n_genes:,} gene names is in the vocabulary (first: {_first(names)}; the vocabulary "
            f"holds names such as {_first(vocabulary.gene_tokens)}). {_advice(matrix, vocabulary, report.id_kind)}"
        )
    shares = {"genes": report.share_of_genes, "counts": report.share_of_counts}
    low = [f"{share:.0%} of the {what}" for what, share in shares.items() if share is not None and share < min_overlap]
    if low:
        raise VocabularyError(
            f"Only {' and '.join(low)} are in the model's vocabulary; at least {min_overlap:.0%} must be. {report} "
            f"{_advice(matrix, vocabulary, report.id_kind)} If it is right nonetheless (a small panel, say), lower "
            "min_overlap=.",
            report,
        )


def _refuse_transposed(matrix: CellMatrix) -> None:
    cells = list(map(str, matrix.cell_ids))
    if recognise_id_kind(list(matrix.gene_names)) == "other" and recognise_id_kind(cells) != "other":
        raise GeneIdError(
            f"The matrix is transposed: its rows are called {_first(matrix.cell_ids)}, which are genes, and its columns "
            f"{_first(matrix.gene_names)}. Use adata.T."
        )


def _advice(matrix: CellMatrix, vocabulary: GeneVocabulary, found: str) -> str:
    """Which column of var would do better, in words."""
    var = matrix.adata.var
    wanted = vocabulary.id_kind
    columns = [name for name in var if name != matrix.gene_column and _fits(var[name], wanted)]
    if matrix.gene_column != "var_names" and _fits(matrix.adata.var_names, wanted):
        columns.insert(0, "var_names")
    if columns:
        return f"The model wants {wanted.replace('_', ' ')}s: use gene_column={' or '.join(map(repr, columns))}."
    if found != wanted and wanted != "other":
        return f"The model wants {wanted.replace('_', ' ')}s, and var has no column of them."
    return "Look at the names in var: they must be the model's."


def _fits(values: Iterable[object], wanted: str) -> bool:
    series = pd.Series(values)
    return not pd.api.types.is_numeric_dtype(series) and recognise_id_kind(_texts(series)) == wanted


def _share_of_ids(values: Iterable[object]) -> float:
    texts = _texts(values)
    return sum(map(is_ensembl_id, texts)) / max(len(texts), 1)


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def _first(names: Iterable[object]) -> str:
    texts = [str(name) for name, _ in zip(names, range(3), strict=False)]
    return ", ".join(texts)
