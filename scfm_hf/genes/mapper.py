"""Finds the token of every gene name of a file."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from scfm_hf.errors import VocabularyError
from scfm_hf.genes.identifiers import is_ensembl_id, recognise_id_kind, recognise_species, strip_version
from scfm_hf.genes.mapping import WAYS, GeneMapping, MappingReport, find_duplicates
from scfm_hf.genes.nomenclature import Nomenclature, nomenclature
from scfm_hf.genes.tables import SPECIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.genes.vocabulary import GeneVocabulary

Way = Literal["exact", "version", "case", "identifiers", "alias", "symbol_to_id", "id_to_symbol"]


class Found(NamedTuple):
    """A name that has a token."""

    token_id: int
    way: Way
    versioned: bool = False
    renamed: str | None = None


class Ambiguous(NamedTuple):
    """A name that may stand for several genes or tokens."""

    candidates: tuple[str, ...]


class GeneMapper:
    """Matches the gene names of a file to a vocabulary.

    A name is tried as it is written; without its version; in another case; in the model's own ``identifiers``; and
    last in the gene tables of its species: previous symbols and aliases, and symbols for Ensembl ids or the reverse.
    The first way that leads to a token decides. A symbol that is approved is never taken for an alias of another
    gene, and a name that may stand for several genes is listed as ambiguous, never guessed. Columns that have the
    same token are reported; what to do with them is the caller's choice.

    With ``strip_versions=False, use_tables=False`` and no identifiers only names as they are written match, as in most
    original implementations.

    Parameters
    ----------
    vocabulary
        Genes of the model. Its special tokens match no name.
    identifiers
        Further identifier -> token of the vocabulary, as the model's authors publish them. Entries that lead to no
        gene of the vocabulary are left out. Upper and lower case are told apart as ``case_sensitive`` says.
    strip_versions
        Whether ``ENSG00000141510.18`` matches ``ENSG00000141510``. ``_PAR_Y`` is never taken off.
    case_sensitive
        False also matches names and identifiers that differ in case only.
    use_tables
        Whether to use the gene tables.

    Raises
    ------
    VocabularyError
        If two identifiers that differ in case only lead to different tokens, and case is not to matter.
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        identifiers: Mapping[str, str] | None = None,
        strip_versions: bool = True,
        case_sensitive: bool = True,
        use_tables: bool = True,
    ) -> None:
        self.vocabulary = vocabulary
        self.strip_versions = strip_versions
        self.case_sensitive = case_sensitive
        self.use_tables = use_tables
        special = set(vocabulary.special_tokens.values())
        self._genes = {token: i for token, i in vocabulary.token_to_id.items() if token not in special}
        self._any_case = {} if case_sensitive else _upper_case_tokens(self._genes)
        self._identifiers = self._known_identifiers(identifiers or {})
        self._older_tokens: dict[str, dict[str, tuple[str, ...]]] = {}

    def map(
        self, names: Sequence[str], *, counts_per_gene: ArrayLike | None = None, species: str | None = None
    ) -> GeneMapping:
        """Find the token of every name.

        Parameters
        ----------
        names
            One a column of the file.
        counts_per_gene
            Total count of each column, (n_columns,); the report then tells the share of the counts that have a token.
        species
            Species of the names; None recognises it. Only a species that the vocabulary holds has its tables used.

        Returns
        -------
        The token of every column, with the report.

        Raises
        ------
        ValueError
            If ``counts_per_gene`` has another length than the names.
        """
        names = [str(name) for name in names]
        recognised = species or recognise_species(names)
        tables = self._tables(recognised)
        found: list[Found | Ambiguous | None] = [
            Found(self._genes[name], "exact") if name in self._genes else self._find(name, tables) for name in names
        ]
        indices = np.array([match.token_id if isinstance(match, Found) else -1 for match in found], dtype=np.int64)
        counts = _checked_counts(counts_per_gene, len(names))
        ways = Counter(match.way for match in found if isinstance(match, Found))
        report = MappingReport(
            n_genes=len(names),
            n_matched=int((indices >= 0).sum()),
            share_of_counts=_share(counts, indices >= 0),
            id_kind=recognise_id_kind(names),
            species=recognised,
            ways={way: n for way in WAYS if (n := ways[way])},  # type: ignore[index]
            n_versions_stripped=sum(isinstance(match, Found) and match.versioned for match in found),
            unmatched=_unmatched(names, found, counts),
            ambiguous={n: m.candidates for n, m in zip(names, found, strict=True) if isinstance(m, Ambiguous)},
            renamed={n: m.renamed for n, m in zip(names, found, strict=True) if isinstance(m, Found) and m.renamed},
            duplicates=find_duplicates(indices, self.vocabulary.tokens),
        )
        return GeneMapping(indices=indices, n_vocabulary=len(self.vocabulary), report=report)

    def _find(self, name: str, tables: Nomenclature | None) -> Found | Ambiguous | None:
        """Find a name that is no token as it is written."""
        bare = strip_version(name) if self.strip_versions else name
        versioned = bare != name
        if versioned and bare in self._genes:
            return Found(self._genes[bare], "version", versioned)
        tokens = self._any_case.get(bare.upper(), ())
        if len(tokens) > 1:
            return Ambiguous(tokens)
        if tokens:
            return Found(self._genes[tokens[0]], "case", versioned)
        for key in (name, bare) if versioned else (name,):
            token = self._identifiers.get(key if self.case_sensitive else key.upper())
            if token is not None:
                return Found(self._genes[token], "identifiers", versioned and key == bare)
        match = self._find_in_tables(bare, tables) if tables is not None else None
        return match._replace(versioned=versioned) if isinstance(match, Found) else match

    def _find_in_tables(self, name: str, tables: Nomenclature) -> Found | Ambiguous | None:
        if self.vocabulary.id_kind == "ensembl_id":
            return None if is_ensembl_id(name) else self._find_by_symbol(name, tables)
        if is_ensembl_id(name):
            return self._find_by_ensembl_id(name, tables)
        approved = tables.approved_symbols(name)
        tokens = [token for symbol in approved for token in self._tokens_of_symbol(symbol, tables)]
        if len(tokens) == 1 and len(approved) == 1:
            return Found(self._genes[tokens[0]], "alias", renamed=tokens[0])
        return Ambiguous(approved if len(approved) > 1 else tuple(tokens)) if tokens else None

    def _find_by_symbol(self, name: str, tables: Nomenclature) -> Found | Ambiguous | None:
        """Find the Ensembl id of a symbol in a vocabulary of Ensembl ids."""
        approved = tables.approved_symbols(name)
        ids = tuple(i for symbol in approved for i in tables.ensembl_ids(symbol))
        # The model's own identifiers hold further ids of its genes, such as those of another species' orthologs.
        tokens = tuple(i if i in self._genes else self._identifiers.get(i) for i in ids)
        if not any(tokens):
            return None
        if len(approved) > 1:
            return Ambiguous(approved)
        if len(ids) > 1 or tokens[0] is None:
            return Ambiguous(ids)
        if approved[0] == name:
            return Found(self._genes[tokens[0]], "symbol_to_id")
        return Found(self._genes[tokens[0]], "alias", renamed=approved[0])

    def _find_by_ensembl_id(self, ensembl_id: str, tables: Nomenclature) -> Found | Ambiguous | None:
        """Find the symbol of an Ensembl id in a vocabulary of symbols, if the symbol stands for this id."""
        symbol = tables.symbol_of.get(ensembl_id)
        if symbol is None:
            return None
        tokens, ids = self._tokens_of_symbol(symbol, tables), tables.ensembl_ids(symbol)
        if not tokens or ensembl_id not in ids:
            return None
        if len(ids) > 1:
            return Ambiguous(ids)
        return Found(self._genes[tokens[0]], "id_to_symbol") if len(tokens) == 1 else Ambiguous(tokens)

    def _tokens_of_symbol(self, symbol: str, tables: Nomenclature) -> tuple[str, ...]:
        """Tokens that name the gene of an approved symbol: the symbol itself, else its older names."""
        if symbol in self._genes:
            return (symbol,)
        if tables.species not in self._older_tokens:
            self._older_tokens[tables.species] = tables.older_names(self._genes)
        return self._older_tokens[tables.species].get(symbol, ())

    def _tables(self, species: str | None) -> Nomenclature | None:
        """Tables to use: those of the names' species if the vocabulary has it, or its only one if it cannot be told."""
        if not self.use_tables or self.vocabulary.id_kind == "other":
            return None
        known = [one for one in self.vocabulary.species if one in SPECIES]
        if species is None and len(known) == 1:
            species = known[0]
        return nomenclature(species) if species in known else None

    def _known_identifiers(self, identifiers: Mapping[str, str]) -> dict[str, str]:
        known = {name: token for name, token in identifiers.items() if token in self._genes}
        if self.case_sensitive:
            return known
        folded: dict[str, str] = {}
        for name, token in known.items():
            if folded.setdefault(name.upper(), token) != token:
                raise VocabularyError(
                    f"The identifier {name!r} leads to {token} and, in another case, to {folded[name.upper()]}; "
                    "keep one of them, or set case_sensitive=True."
                )
        return folded


def _upper_case_tokens(tokens: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    folded: dict[str, tuple[str, ...]] = {}
    for token in tokens:
        folded[token.upper()] = (*folded.get(token.upper(), ()), token)
    return folded


def _checked_counts(counts_per_gene: ArrayLike | None, n_genes: int) -> NDArray[np.float64] | None:
    if counts_per_gene is None:
        return None
    counts = np.asarray(counts_per_gene, dtype=np.float64).ravel()
    if len(counts) != n_genes:
        raise ValueError(f"counts_per_gene has {len(counts)} values for {n_genes} genes; give one a gene.")
    return counts


def _share(counts: NDArray[np.float64] | None, known: NDArray[np.bool_]) -> float | None:
    if counts is None:
        return None
    total = counts.sum()
    return float(counts[known].sum() / total) if total else 0.0


def _unmatched(
    names: Sequence[str], found: Sequence[Found | Ambiguous | None], counts: NDArray[np.float64] | None
) -> tuple[str, ...]:
    columns = [column for column, match in enumerate(found) if match is None]
    if counts is not None:
        columns.sort(key=lambda column: -counts[column])
    return tuple(names[column] for column in columns)
