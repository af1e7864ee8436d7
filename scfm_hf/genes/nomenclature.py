"""How a species names its genes: symbol to Ensembl id and back, and what a gene was called before."""

from __future__ import annotations

from collections import defaultdict
from functools import cache, cached_property
from typing import TYPE_CHECKING

from scfm_hf.genes.tables import alias_table, gene_table

if TYPE_CHECKING:
    from collections.abc import Iterable

# Pseudo-autosomal regions of GRCh38, 0-based: (chromosome, start, end).
_HUMAN_PSEUDO_AUTOSOMAL = (
    ("chrX", 10_000, 2_781_479),
    ("chrX", 155_701_382, 156_030_895),
    ("chrY", 10_000, 2_781_479),
    ("chrY", 56_887_902, 57_217_415),
)


class Nomenclature:
    """The gene names of one species.

    Nothing here guesses: where a name may stand for several genes, all of them are returned.

    Parameters
    ----------
    species
        ``"human"`` or ``"mouse"``.
    """

    def __init__(self, species: str) -> None:
        self.species = species
        genes = gene_table(species)
        named = genes[genes["symbol"] != genes["ensembl_id"]]
        self.symbol_of: dict[str, str] = dict(zip(named["ensembl_id"], named["symbol"], strict=True))
        """Ensembl id -> symbol, for the genes that have a name."""
        self.symbols: frozenset[str] = frozenset(self.symbol_of.values())
        """Symbols in use for at least one gene."""

    def approved_symbols(self, name: str) -> tuple[str, ...]:
        """Approved symbols that a name may stand for: itself if it is one, else those it is an alias of, else none."""
        if name in self._approved:
            return (name,)
        return self._approved_of.get(name, ())

    def ensembl_ids(self, symbol: str) -> tuple[str, ...]:
        """Ensembl ids that a symbol in use may stand for.

        A repeated symbol stands for its protein-coding gene if there is exactly one, and for the X copy of a human
        pseudo-autosomal gene (reference genomes mask the Y copy); otherwise all its ids are returned.
        """
        return self._ids_of.get(symbol, ())

    def older_names(self, tokens: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Approved symbol -> those of the tokens that are an alias of it and of no other gene."""
        older: defaultdict[str, list[str]] = defaultdict(list)
        for token in tokens:
            approved = self.approved_symbols(token)
            if len(approved) == 1 and approved[0] != token:
                older[approved[0]].append(token)
        return {symbol: tuple(names) for symbol, names in older.items()}

    @cached_property
    def upper_case_symbols(self) -> frozenset[str]:
        """Symbols in use, in upper case."""
        return frozenset(symbol.upper() for symbol in self.symbols)

    @cached_property
    def _approved_of(self) -> dict[str, tuple[str, ...]]:
        aliases = alias_table(self.species)
        return _grouped(aliases["alias"], aliases["approved"])

    @cached_property
    def _approved(self) -> frozenset[str]:
        # A symbol may be approved without being in the gene table (a gene without an Ensembl id).
        return self.symbols.union(*self._approved_of.values())

    @cached_property
    def _ids_of(self) -> dict[str, tuple[str, ...]]:
        ids_of = _grouped(self.symbol_of.values(), self.symbol_of)
        return {symbol: ids if len(ids) == 1 else self._preferred(ids) for symbol, ids in ids_of.items()}

    def _preferred(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        ids = tuple(i for i in ids if i not in self._pseudo_autosomal_y_copies) or ids
        return tuple(i for i in ids if i in self._protein_coding) or ids

    @cached_property
    def _protein_coding(self) -> frozenset[str]:
        genes = gene_table(self.species)
        return frozenset(genes.loc[genes["biotype"] == "protein_coding", "ensembl_id"])

    @cached_property
    def _pseudo_autosomal_y_copies(self) -> frozenset[str]:
        if self.species != "human":
            return frozenset()
        genes = gene_table(self.species)
        copies: dict[str, list[str]] = {"chrX": [], "chrY": []}
        symbols: dict[str, set[str]] = {"chrX": set(), "chrY": set()}
        for chromosome, start, end in _HUMAN_PSEUDO_AUTOSOMAL:
            inside = genes[(genes["chrom"] == chromosome) & genes["start"].between(start, end)]
            copies[chromosome] += list(inside["ensembl_id"])
            symbols[chromosome] |= set(inside["symbol"])
        return frozenset(i for i in copies["chrY"] if self.symbol_of.get(i) in symbols["chrX"])


@cache
def nomenclature(species: str) -> Nomenclature:
    """The gene names of a species; made once, then kept."""
    return Nomenclature(species)


def _grouped(keys: Iterable[str], values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return {key: tuple(group) for key, group in groups.items()}
