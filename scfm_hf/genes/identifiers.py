"""What a list of gene names is: Ensembl ids or symbols, with versions or without, of which species."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from scfm_hf.genes.nomenclature import nomenclature
from scfm_hf.genes.tables import SPECIES, Species

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IdKind = Literal["ensembl_id", "symbol", "other"]
"""What names are: Ensembl ids, gene symbols, or neither."""

_ENSEMBL = re.compile(r"ENS[A-Z]*[0-9]{10,11}(\.[0-9]+)?(_PAR_Y)?", re.IGNORECASE)
_VERSIONED = re.compile(r"(ENS[A-Z]*[0-9]{10,11})\.[0-9]+(_PAR_Y)?", re.IGNORECASE)
# ENSGR is how Ensembl once wrote the Y copies of the human pseudo-autosomal genes.
_ENSEMBL_PREFIX: dict[Species, re.Pattern[str]] = {
    "human": re.compile(r"ENS(G|GR|T|P)[0-9]", re.IGNORECASE),
    "mouse": re.compile(r"ENSMUS(G|T|P)[0-9]", re.IGNORECASE),
}
# Old annotations and gene panels hold many names that no table knows; cell barcodes and probes match almost none.
_FEWEST_KNOWN_SYMBOLS = 0.1


def is_ensembl_id(name: str) -> bool:
    """Whether a name has the form of an Ensembl id of any species, with or without a version."""
    return _ENSEMBL.fullmatch(name) is not None


def strip_version(name: str) -> str:
    """Remove the version of an Ensembl id; every other name is returned as it is.

    ``_PAR_Y`` stays: the Y copy of a pseudo-autosomal gene is another gene than the X copy.

    Examples
    --------
    >>> strip_version("ENSG00000141510.18"), strip_version("ENSG00000002586.20_PAR_Y"), strip_version("AC012345.1")
    ('ENSG00000141510', 'ENSG00000002586_PAR_Y', 'AC012345.1')
    """
    found = _VERSIONED.fullmatch(name) if "." in name else None
    return name if found is None else found[1] + (found[2] or "")


def recognise_id_kind(names: Iterable[str]) -> IdKind:
    """Tell what most of the names are.

    Returns
    -------
    ``"ensembl_id"`` if at least half of them are Ensembl ids of any species; ``"symbol"`` if at least a tenth are
    approved symbols of human or mouse in any case; else ``"other"``, as for cell barcodes, numbers, or no name at
    all.
    """
    names = list(names)
    if not names:
        return "other"
    if 2 * sum(map(is_ensembl_id, names)) >= len(names):
        return "ensembl_id"
    upper = [name.upper() for name in names]
    known = max(sum(map(nomenclature(species).upper_case_symbols.__contains__, upper)) for species in SPECIES)
    return "symbol" if known >= _FEWEST_KNOWN_SYMBOLS * len(names) else "other"


def recognise_species(names: Sequence[str]) -> Species | None:
    """Tell the species of most of the names, by the prefix of Ensembl ids or else by approved symbols.

    Symbols are compared as they are written (``CD4`` is human, ``Cd4`` mouse), so mouse symbols that someone has put
    into upper case pass for human ones.

    Returns
    -------
    ``"human"`` or ``"mouse"``; None if it is neither or cannot be told.
    """
    ensembl = [name for name in names if is_ensembl_id(name)]
    if ensembl and 2 * len(ensembl) >= len(names):
        for species, prefix in _ENSEMBL_PREFIX.items():
            if 2 * sum(prefix.match(name) is not None for name in ensembl) > len(ensembl):
                return species
        return None
    known = {species: sum(map(nomenclature(species).symbols.__contains__, names)) for species in SPECIES}
    first, second = sorted(SPECIES, key=lambda species: known[species], reverse=True)
    clear = known[first] > 2 * known[second] and known[first] >= _FEWEST_KNOWN_SYMBOLS * len(names)
    return first if clear else None
