"""scPRINT's scheme: the counts of some genes of a cell, expressed ones and, as filling, others; and its depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from scfm_hf.tokenization.draws import CellDraws, Draws
from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.draws import Stream
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock

#: Which genes of a cell are taken.
Selection = Literal["random", "most_expressed", "all"]
#: Taxon numbers by name.
_TAXA = {"human": 9606, "homo sapiens": 9606, "mouse": 10090, "mus musculus": 10090}


class ScPrintScheme(Scheme):
    """Gives genes of a cell with their counts, and ``depth``: the counts of the whole cell, unknown genes included.

    A gene that the file lacks counts as one that is not expressed.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["taxon"]`` is the NCBI taxon of each gene.
    selection
        ``random``: expressed genes, in the order of the vocabulary, or a random choice of them where there are more
        than ``max_length``; ``most_expressed``: highest counts first, equal ones in the order of the vocabulary;
        ``all``: every gene of the organism.
    genes
        Take these genes, expressed or not, in the order of the vocabulary; ``selection`` is then of no account.
    fill
        Fill cells that express fewer genes than ``max_length`` with random genes that they do not express, as far as
        there are any: the model was trained so.
    added_genes
        So many genes that are not expressed come on top.
    shuffle
        Draw an order for the expressed genes even where all are taken, as the original did in January 2025.
    species
        Whose genes: ``human``, ``mouse``, or a taxon number. None takes the organism that most genes of the file are
        of.
    seed
        Of the draws; each cell has its own.
    draws
        In place of ``seed``: streams of another kind.
    duplicates
        What becomes of columns that mean the same gene: ``sum`` or ``refuse``.

    References
    ----------
    Kalfon et al. 2025, Nature Communications 16, Methods.
    """

    needs: ClassVar[tuple[str, ...]] = ("taxon",)

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        selection: Selection = "random",
        genes: Sequence[str] | None = None,
        fill: bool = True,
        added_genes: int = 0,
        shuffle: bool = False,
        species: str | int | None = None,
        seed: int = 0,
        draws: Draws | None = None,
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if selection not in get_args(Selection):
            raise ValueError(f"selection={selection!r} is not one of {', '.join(map(repr, get_args(Selection)))}.")
        if duplicates not in ("sum", "refuse"):
            raise ValueError(f"duplicates={duplicates!r} is not one of 'sum', 'refuse': a gene has one place.")
        if added_genes < 0:
            raise ValueError(f"added_genes={added_genes} is negative.")
        self.selection, self.fill, self.added_genes, self.shuffle = selection, fill, added_genes, shuffle
        self.draws = draws or CellDraws(seed, step="genes")
        self.duplicates, self.species = duplicates, species
        taxa = statistics["taxon"]
        self._taxon = None if species is None else self._taxon_of(species)
        self._genes = {int(taxon): np.flatnonzero(taxa == taxon) for taxon in np.unique(taxa[~np.isnan(taxa)])}
        self._chosen = None if genes is None else self._ids(genes)

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids``, ``values`` and, one a cell, ``depth``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {
            "input_ids": Column(pad),
            "values": Column(0.0, np.float32),
            "depth": Column(0.0, np.float32, per_cell=True),
        }

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block; see :meth:`Scheme.encode`.

        Raises
        ------
        ValueError
            If ``species`` was named and the file has genes of others alone: all counts would be 0.
        """
        if self._taxon is not None and len(block.gene_ids):
            found = np.unique(self.statistics["taxon"][block.gene_ids])
            if self._taxon not in found:
                raise ValueError(
                    f"No gene of the file is of species={self.species!r}: they are of the taxa "
                    f"{found.astype(int).tolist()}. Leave species= out, or name that of the cells."
                )
        known = self._genes[self._taxon or self._most_common(block.gene_ids)]
        counts = block.counts.sorted_indices()
        rows, values = [], []
        for number, cell_id in enumerate(block.cell_ids):
            part = slice(counts.indptr[number], counts.indptr[number + 1])
            profile = np.zeros(len(self.vocabulary), np.float32)
            profile[block.gene_ids[counts.indices[part]]] = counts.data[part]
            taken = self._select(profile[known], max_length, self.draws.cell(str(cell_id)))
            ids = known[taken] if self._chosen is None else self._chosen
            rows.append(ids)
            values.append(profile[ids])
        input_ids = Ragged.from_rows(rows, np.int64)
        return {
            "input_ids": input_ids,
            "values": Ragged(np.concatenate([np.empty(0, np.float32), *values]), input_ids.offsets),
            "depth": block.totals.astype(np.float32),
        }

    def _select(self, profile: NDArray[np.float32], max_length: int, stream: Stream) -> NDArray[np.int64]:
        """Places of the genes to take, out of the counts of an organism's genes."""
        if self._chosen is not None or self.selection == "all":
            return np.arange(len(profile))
        expressed = np.flatnonzero(profile)
        kept = min(max_length, len(expressed))
        if self.selection == "most_expressed":
            taken = expressed[np.argsort(-profile[expressed], kind="stable")[:kept]]
        elif kept < len(expressed) or self.shuffle:
            taken = expressed[stream.choice(len(expressed), kept)]
        else:
            taken = expressed
        wanted = self.added_genes + (max_length - kept if self.fill else 0)
        absent = np.flatnonzero(profile == 0)
        if not wanted or not len(absent):
            return taken
        return np.append(taken, absent[stream.choice(len(absent), min(wanted, len(absent)))])

    def _most_common(self, gene_ids: NDArray[np.int64]) -> int:
        """Taxon that most of these genes are of; the first if there is none."""
        taxa = self.statistics["taxon"][gene_ids]
        return max(self._genes, key=lambda taxon: int((taxa == taxon).sum()))

    def _taxon_of(self, species: str | int) -> int:
        text = str(species).lower().rpartition(":")[2]
        taxon = _TAXA.get(text) or (int(text) if text.isdigit() else None)
        known = sorted({int(one) for one in self.statistics["taxon"] if not np.isnan(one)})
        if taxon not in known:
            raise ValueError(f"The vocabulary has no genes of species={species!r}; its taxa are {known}.")
        return taxon

    def _ids(self, genes: Sequence[str]) -> NDArray[np.int64]:
        ids = self.vocabulary.ids(list(genes))
        if (ids < 0).any():
            absent = [gene for gene, number in zip(genes, ids.tolist(), strict=True) if number < 0]
            raise ValueError(f"The vocabulary lacks {len(absent)} of the genes (first: {', '.join(absent[:5])}).")
        return np.unique(ids)


SCHEME = ScPrintScheme
