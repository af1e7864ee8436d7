"""One name a gene for all files, whatever they call it: so that the same cell can be known again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfm_hf.cells import choose_gene_column
from scfm_hf.cells.matrix import names_in
from scfm_hf.data.corpus_file import sampled_cells
from scfm_hf.genes import alias_table, gene_table, is_ensembl_id, recognise_id_kind, recognise_species, strip_version
from scfm_hf.genes.nomenclature import nomenclature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells


@dataclass(frozen=True, eq=False)
class FileGenes:
    """The genes of a file.

    Parameters
    ----------
    names
        Canonical name of each column, (n_columns,): its Ensembl id, or for species without a table the name as it is;
        '' where that is not certain, or where several columns have the same.
    mitochondrial
        Whether each column is a gene of the mitochondrion, (n_columns,).
    species
        As recognised, None if it cannot be told.
    """

    names: NDArray[np.str_]
    mitochondrial: NDArray[np.bool_]
    species: str | None


def file_genes(cells: StoredCells, *, gene_column: str | None = None) -> FileGenes:
    """Name the genes of a file canonically, after a look at some of its cells.

    Symbols are translated only where nothing can be mistaken: approved for one gene, and no alias of another. Two files
    of the same cells may then know different genes of them, but never one gene as another.

    Raises
    ------
    CorpusError
        If the cells looked at are no counts.
    GeneIdError
        If var has no such column.
    """
    column = gene_column or choose_gene_column(sampled_cells(cells), id_kind="ensembl_id")
    given = names_in(cells.var, column)
    species = recognise_species(given)
    names = np.array(_canonical(given, species), dtype=np.str_)
    repeated = pd.Series(names).duplicated(keep=False).to_numpy()
    names[repeated] = ""
    return FileGenes(names, _mitochondrial(cells.var, names), species)


class GeneRegistry:
    """All genes of some files, numbered; each has a key that its name alone decides.

    Parameters
    ----------
    files
        The genes of each.
    """

    def __init__(self, files: Sequence[FileGenes]) -> None:
        names = sorted({str(name) for genes in files for name in genes.names} - {""})
        self._number = {name: number for number, name in enumerate(names)}
        #: A random number a gene, uint64, (n_genes,).
        self.keys = np.array(
            [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names], np.uint64
        )
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def columns(self, genes: FileGenes) -> NDArray[np.int64]:
        """Number of the gene of each column of a file, -1 where it is not certain, (n_columns,)."""
        return np.array([self._number.get(str(name), -1) for name in genes.names], np.int64)


def _canonical(names: Sequence[str], species: str | None) -> list[str]:
    if recognise_id_kind(names) == "ensembl_id":
        return [strip_version(name) if is_ensembl_id(name) else "" for name in names]
    if species is None:
        return list(names)
    certain = _certain_ids(species)
    return [certain.get(name, "") for name in names]


@cache
def _certain_ids(species: str) -> dict[str, str]:
    """Approved symbol -> Ensembl id, for symbols of one gene that no other gene had before."""
    known = nomenclature(species)
    aliases = alias_table(species)
    reused = set(aliases.loc[aliases["alias"] != aliases["approved"], "alias"])
    found = {symbol: known.ensembl_ids(symbol) for symbol in known.symbols if symbol not in reused}
    return {symbol: ids[0] for symbol, ids in found.items() if len(ids) == 1}


def _mitochondrial(var: pd.DataFrame, names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """By the chromosome in the gene tables, else by the prefix MT-."""
    known = _mitochondrial_ids()
    index = names_in(var, "var_names")
    return np.array(
        [
            str(name) in known or strip_version(own) in known or own.upper().startswith("MT-")
            for name, own in zip(names, index, strict=True)
        ],
        np.bool_,
    )


@cache
def _mitochondrial_ids() -> frozenset[str]:
    tables = (gene_table(species) for species in ("human", "mouse"))
    return frozenset().union(*(table.loc[table["chrom"] == "chrM", "ensembl_id"] for table in tables))
