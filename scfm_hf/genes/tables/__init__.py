"""Gene tables that ship with the library, read when first asked for.

``scripts/build_gene_tables.py`` makes them; :func:`table_sources` tells where they come from and under which licence.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

from scfm_hf.errors import GeneIdError

if TYPE_CHECKING:
    import pandas as pd

Species = Literal["human", "mouse"]
"""The species that the tables know."""

SPECIES: tuple[Species, ...] = get_args(Species)


def gene_table(species: str) -> pd.DataFrame:
    """Genes of a species, one a row, sorted by Ensembl id.

    Parameters
    ----------
    species
        ``"human"`` (GENCODE v48) or ``"mouse"`` (GENCODE vM37).

    Returns
    -------
    Columns ``ensembl_id`` (unique, no version), ``symbol`` (the id where the gene has no name; not unique),
    ``biotype``, ``chrom`` (``chr1`` ... ``chrX``, ``chrY``, ``chrM``, scaffolds), ``start`` (0-based, int32) and
    ``strand`` (``+``, ``-``).

    Raises
    ------
    GeneIdError
        If there is no table for the species.
    """
    return _read(f"genes_{_known(species)}").copy()


def alias_table(species: str) -> pd.DataFrame:
    """Previous symbols and aliases of a species (HGNC, MGI).

    Returns
    -------
    Columns ``alias`` and ``approved``. An alias may have several approved symbols, and may itself be one of another
    gene.

    Raises
    ------
    GeneIdError
        If there is no table for the species.
    """
    return _read(f"aliases_{_known(species)}").copy()


def ortholog_table() -> pd.DataFrame:
    """Human-mouse orthologs of Ensembl Compara, one pair a row.

    Returns
    -------
    Columns ``human_ensembl_id``, ``human_symbol``, ``mouse_ensembl_id``, ``mouse_symbol``, ``type`` (``one2one``,
    ``one2many``, ``many2many``), ``confidence`` (0 or 1, int8) and ``goc`` (gene-order conservation, 0 to 100,
    float32, NaN where unknown).
    """
    return _read("orthologs_human_mouse").copy()


def transcription_factors() -> tuple[str, ...]:
    """Symbols of the 1,639 human transcription factors of Lambert et al. 2018 (Cell 172:650), as published."""
    return tuple(_read("transcription_factors_human")["symbol"])


def table_sources() -> dict[str, dict[str, Any]]:
    """Where every table comes from.

    Returns
    -------
    Table name -> ``file``, ``sha256``, ``rows``, ``columns``, ``source``, ``release``, ``licence``, ``citation``,
    ``input`` and ``input_sha256``.
    """
    sources: dict[str, dict[str, Any]] = json.loads(
        files(__name__).joinpath("sources.json").read_text(encoding="utf-8")
    )
    return sources


def _known(species: str) -> str:
    if species not in SPECIES:
        raise GeneIdError(f"There is no gene table for {species!r}; there are tables for {' and '.join(SPECIES)}.")
    return species


@cache
def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    with files(__name__).joinpath(f"{name}.parquet").open("rb") as file:
        table = pd.read_parquet(file)
    if name.startswith("genes_"):
        # Half of the genes have no name; their symbol is stored empty, which keeps the file small.
        table["symbol"] = table["symbol"].where(table["symbol"] != "", table["ensembl_id"])
    return table
