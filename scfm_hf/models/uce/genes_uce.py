"""Tokens of UCE's genes and chromosomes: their names, and where each gene lies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from numpy.typing import NDArray

#: Tokens of the first four rows, by role; the second was never used.
SPECIAL_TOKENS = {
    "pad": "<pad>",
    "chromosome_begin": "<chromosome_begin>",
    "chromosome_end": "<chromosome_end>",
    "cls": "<cls>",
}
_COLUMNS = ("gene_symbol", "chromosome", "start", "species")


class Places(NamedTuple):
    """Where genes lie.

    Parameters
    ----------
    chromosomes
        ``<species>_<chromosome>``, sorted; the position is the chromosome's code.
    of_gene
        (species, symbol in upper case) -> code of the chromosome, start.
    """

    chromosomes: tuple[str, ...]
    of_gene: Mapping[tuple[str, str], tuple[int, int]]


def gene_places(table: pd.DataFrame, *, where: str) -> Places:
    """Chromosome and start of each gene.

    Parameters
    ----------
    table
        Columns ``gene_symbol``, ``chromosome``, ``start`` and ``species``. Chromosomes are numbered over all its lines,
        whatever their species. Of several lines of a gene the first counts.
    where
        Name of the file, for messages.

    Raises
    ------
    CheckpointError
        If a column is missing, or a start is no number.
    """
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise CheckpointError(f"{where} has no column {', '.join(missing)}; it has {', '.join(map(str, table))}.")
    names = table["species"].astype(str) + "_" + table["chromosome"].astype(str)
    chromosomes = tuple(sorted(set(names)))
    codes = {name: code for code, name in enumerate(chromosomes)}
    try:
        starts = table["start"].astype(np.int64).tolist()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: a start is no whole number ({error}).") from error
    symbols = table["gene_symbol"].astype(str).str.upper()
    of_gene: dict[tuple[str, str], tuple[int, int]] = {}
    for species, symbol, name, start in zip(table["species"].astype(str), symbols, names, starts, strict=True):
        of_gene.setdefault((species, symbol), (codes[name], start))
    return Places(chromosomes, of_gene)


def distinct_symbols(symbols: Iterable[str]) -> list[str]:
    """Symbols that differ in more than letter case, each as it is first written: the genes, in the order of rows."""
    first: dict[str, str] = {}
    for symbol in symbols:
        first.setdefault(symbol.upper(), symbol)
    return list(first.values())


def gene_tokens(species: str, symbols: Iterable[str], n_rows: int) -> list[str]:
    """Tokens of a species' rows; rows without a gene get a name that no gene has."""
    tokens = [f"{species}:{symbol}" for symbol in symbols]
    return tokens + [f"<{species}-unused-{number}>" for number in range(len(tokens), n_rows)]


def chromosome_tokens(chromosomes: Iterable[str]) -> list[str]:
    """Tokens of chromosomes."""
    return [re.sub(r"\s", "_", f"<chromosome:{name}>") for name in chromosomes]


def place_statistics(tokens: list[str], places: Places, first_chromosome: int) -> dict[str, NDArray[np.float64]]:
    """Id of the chromosome's token and start of each token, float64, (n_tokens,), NaN where it lies nowhere."""
    chromosome, start = np.full(len(tokens), np.nan), np.full(len(tokens), np.nan)
    for number, token in enumerate(tokens):
        species, _, symbol = token.partition(":")
        found = places.of_gene.get((species, symbol.upper()))
        if found is not None:
            chromosome[number], start[number] = first_chromosome + found[0], found[1]
    return {"chromosome": chromosome, "start": start}
