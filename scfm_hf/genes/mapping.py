"""Which column of a file is which token: the result of a mapping, and the report on it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from scipy import sparse

    from scfm_hf.genes.identifiers import IdKind

_EXAMPLES = 5

WAYS = {
    "exact": "as written",
    "version": "without their version",
    "case": "in another case",
    "identifiers": "by the model's own identifiers",
    "alias": "by a previous symbol or alias",
    "symbol_to_id": "by their symbol",
    "id_to_symbol": "by their Ensembl id",
}
"""How a name may be matched, in the order in which it is tried."""


@dataclass(frozen=True, kw_only=True)
class MappingReport:
    """What became of the gene names of a file; ``str`` gives a paragraph to read.

    Parameters
    ----------
    n_genes
        Columns of the file.
    n_matched
        Columns that have a token.
    share_of_counts
        Share of all counts that lie in columns that have a token; None where the counts were not given.
    id_kind, species
        What most names are and of which species, as recognised from the names (the species may have been stated
        instead).
    ways
        Way -> how many columns were matched by it; :data:`WAYS` explains them.
    n_versions_stripped
        Matched columns whose version was taken off.
    unmatched
        Names without a token; those with most counts first where the counts were given.
    ambiguous
        Name -> the genes or tokens that it may stand for. Such names have no token: they are never guessed.
    renamed
        Previous symbol or alias -> approved symbol, or the name that the vocabulary has for it.
    duplicates
        Token -> the columns (at least two) that have it.
    """

    n_genes: int
    n_matched: int
    share_of_counts: float | None = None
    id_kind: IdKind = "other"
    species: str | None = None
    ways: Mapping[str, int] = field(default_factory=dict)
    n_versions_stripped: int = 0
    unmatched: tuple[str, ...] = ()
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    duplicates: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def share_of_genes(self) -> float:
        """Share of the columns that have a token; 0 for a file without columns."""
        return self.n_matched / self.n_genes if self.n_genes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, as JSON takes them."""
        content = asdict(self)
        for name in ("ambiguous", "duplicates"):
            content[name] = {key: list(values) for key, values in content[name].items()}
        return content | {"unmatched": list(self.unmatched), "share_of_genes": self.share_of_genes}

    def __str__(self) -> str:
        kind = {"ensembl_id": "Ensembl ids", "symbol": "symbols", "other": "neither Ensembl ids nor symbols"}[
            self.id_kind
        ]
        counts = "" if self.share_of_counts is None else f" and {self.share_of_counts:.1%} of the counts"
        text = [
            f"{self.n_matched:,} of {self.n_genes:,} genes are in the vocabulary: "
            f"{self.share_of_genes:.1%} of the genes{counts}.",
            f"The names are {kind}" + (f" of {self.species}." if self.species else "."),
        ]
        if self.n_matched:
            text.append(f"Matched: {', '.join(f'{n:,} {WAYS[way]}' for way, n in self.ways.items() if n)}.")
        if self.renamed:
            text.append(f"Renamed: {_examples(f'{old} to {new}' for old, new in self.renamed.items())}.")
        if self.duplicates:
            columns = (f"{token} (columns {', '.join(map(str, where))})" for token, where in self.duplicates.items())
            text.append(f"Several columns for one token: {_examples(columns)}.")
        if self.ambiguous:
            names = (f"{name} ({_examples(genes, ' or ')})" for name, genes in self.ambiguous.items())
            text.append(f"Ambiguous, left out: {_examples(names)}.")
        if self.unmatched:
            text.append(f"Not in the vocabulary: {_examples(self.unmatched)}.")
        return " ".join(text)


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneMapping:
    """The token of every column of a file.

    Parameters
    ----------
    indices
        Id in the vocabulary, int64 (n_columns,); -1 for a column without a token.
    n_vocabulary
        Size of the vocabulary.
    report
        What became of the names.
    """

    indices: NDArray[np.int64]
    n_vocabulary: int
    report: MappingReport

    @property
    def duplicated(self) -> tuple[tuple[int, ...], ...]:
        """Groups of columns (two or more each) that have the same token."""
        return tuple(self.report.duplicates.values())

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether a column has a token, (n_columns,)."""
        return self.indices >= 0

    def to_vocabulary(self, counts: sparse.csr_array | sparse.csr_matrix) -> sparse.csr_array:
        """Put the columns of a matrix in the order of the vocabulary.

        Columns of one token are summed, columns without a token dropped.

        Equal to ``counts @ summing_matrix()``, without the product.

        Parameters
        ----------
        counts
            (n_cells, n_columns), CSR.

        Returns
        -------
        (n_cells, n_vocabulary), canonical CSR of the same dtype (whole numbers below 64 bits become int64 where
        columns are summed).

        Raises
        ------
        ValueError
            If the matrix has another number of columns than the mapping.
        """
        if counts.shape[1] != len(self.indices):
            raise ValueError(f"The matrix has {counts.shape[1]} columns, the mapping is for {len(self.indices)}.")
        tokens = self.indices[counts.indices]
        kept = tokens >= 0
        offsets = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
        data = counts.data[kept]
        if self.report.duplicates and data.dtype.kind in "iu" and data.dtype.itemsize < 8:
            data = data.astype(np.int64)
        # Imported here: it would be a third of the cost of importing scfm_hf.
        from scipy import sparse

        mapped = sparse.csr_array((data, tokens[kept], offsets), shape=(counts.shape[0], self.n_vocabulary))
        mapped.sum_duplicates()
        return mapped

    def summing_matrix(self) -> sparse.csr_array:
        """0/1 matrix, int8 (n_columns, n_vocabulary): counts times it gives the counts of every token."""
        columns = np.flatnonzero(self.known)
        from scipy import sparse

        return sparse.csr_array(
            (np.ones(len(columns), dtype=np.int8), (columns, self.indices[columns])),
            shape=(len(self.indices), self.n_vocabulary),
        )


def find_duplicates(indices: NDArray[np.int64], tokens: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Token -> its columns, for the tokens that have at least two, in the order of the columns."""
    used, counts = np.unique(indices[indices >= 0], return_counts=True)
    columns = np.flatnonzero(np.isin(indices, used[counts > 1]))
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for column in columns.tolist():
        groups[tokens[indices[column]]].append(column)
    return {token: tuple(group) for token, group in groups.items()}


def _examples(texts: Iterable[str], between: str = ", ") -> str:
    texts = list(texts)
    more = f" and {len(texts) - _EXAMPLES:,} more" if len(texts) > _EXAMPLES else ""
    return between.join(texts[:_EXAMPLES]) + more
