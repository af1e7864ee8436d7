"""UCE's scheme: genes drawn by expression, set out chromosome by chromosome."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm_hf.genes import GeneVocabulary
from scfm_hf.genes.tables import SPECIES
from scfm_hf.models.uce.queries_uce import split_genes
from scfm_hf.tokenization.draws import CellDraws
from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.tokenization.draws import Draws, Stream
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock


class UceScheme(Scheme):
    """Draws genes with replacement, in proportion to log(1 + count), and sets them out by chromosome and start.

    A sentence is ``<cls>``, then for each chromosome hit, in random order: its token, the genes drawn on it by start,
    ``<chromosome_end>``. Tokens of genes are ``<species>:<symbol>``; a file has the symbols alone, in any letter case.
    Offers the column ``drawn_ids``: the genes as they were drawn.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["chromosome"]`` is the id of a gene's chromosome
        token, ``statistics["start"]`` where it begins. A gene without them is not known.
    species
        Species of the cells, one of those that the vocabulary holds.
    sample_size
        Genes to draw. A cell whose sentence is longer than the context keeps the first of them that fit.
    withheld_share, n_queries
        For pretraining: share of each cell's expressed genes that are not drawn, and number of genes to ask for, half
        of them withheld ones, half not expressed. With ``n_queries`` the columns ``query_ids`` and ``labels`` come too.
        The released code does not say what training used.
    seed
        Of the draws; each cell has its own stream.
    draws, query_draws
        Other sources of random numbers, such as the original's shared stream; not saved with a tokenizer.
    gene_order, duplicates
        ``vocabulary`` and ``sum`` make the result independent of the order of the file and of repeated columns;
        ``file`` and ``keep`` are the original's way.

    References
    ----------
    Rosen et al. 2023, bioRxiv 2023.11.28.568918, Methods.
    """

    needs: ClassVar[tuple[str, ...]] = ("chromosome", "start")

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        species: str = "human",
        sample_size: int = 1024,
        withheld_share: float = 0.0,
        n_queries: int = 0,
        seed: int = 0,
        draws: Draws | None = None,
        query_draws: Draws | None = None,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        if species not in vocabulary.species:
            raise ValueError(
                f"The tokenizer has no genes of {species!r}. It has those of: {', '.join(vocabulary.species)}. Others "
                "can be added with scfm_hf.models.uce.species_uce.add_species."
            )
        if sample_size < 1 or n_queries < 0 or not 0 <= withheld_share < 1:
            raise ValueError(
                f"sample_size={sample_size} must be positive, n_queries={n_queries} not negative, and "
                f"withheld_share={withheld_share} in [0, 1)."
            )
        self.species, self.sample_size, self.withheld_share, self.n_queries = (
            species,
            sample_size,
            withheld_share,
            n_queries,
        )
        self.gene_order, self.duplicates = gene_order, duplicates
        self._draws = draws or CellDraws(seed, step="sentence")
        self._query_draws = query_draws or CellDraws(seed, step="queries")
        special = vocabulary.special_tokens
        self._pad_id, self._cls_id = (vocabulary.token_to_id[special[role]] for role in ("pad", "cls"))
        self._end_id = vocabulary.token_to_id[special["chromosome_end"]]

    @property
    def gene_vocabulary(self) -> GeneVocabulary:
        """The genes of the species by their symbols alone, with the same ids; those without a place are left out."""
        placed = np.isfinite(self.statistics["chromosome"]) & np.isfinite(self.statistics["start"])
        return _bare_names(self.vocabulary, self.species, placed.tobytes())

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids``; with ``n_queries`` also ``query_ids`` and ``labels``."""
        queries = {"query_ids": Column(0, per_cell=True), "labels": Column(-100, per_cell=True)}
        return {"input_ids": Column(self._pad_id), **(queries if self.n_queries else {})}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``<cls>`` before the genes."""
        return (self.vocabulary.special_tokens["cls"],), ()

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Draw the sentences of a block; see :meth:`Scheme.encode`."""
        counts = block.counts.sorted_indices()
        sentences, drawn, queries, labels = [], [], [], []
        for row, cell_id in enumerate(block.cell_ids.tolist()):
            inside = slice(counts.indptr[row], counts.indptr[row + 1])
            columns, values = counts.indices[inside], counts.data[inside]
            if self.withheld_share or self.n_queries:
                split = split_genes(
                    columns,
                    len(block.gene_ids),
                    share=self.withheld_share,
                    n_queries=self.n_queries,
                    stream=self._query_draws.cell(cell_id),
                )
                columns, values = columns[split.kept], values[split.kept]
                asked = block.gene_ids[split.queries]
                queries.append(np.where(split.labels < 0, self._pad_id, asked))
                labels.append(split.labels)
            stream = self._draws.cell(cell_id)
            genes = self._sample(block.gene_ids[columns], values, stream, max_length)
            sentences.append(self._set_out(genes, stream))
            drawn.append(genes)
        encoded: dict[str, Ragged | NDArray[Any]] = {
            "input_ids": Ragged.from_rows(sentences, np.int64),
            "drawn_ids": Ragged.from_rows(drawn, np.int64),
        }
        if self.n_queries:
            shape = (block.n_cells, self.n_queries)
            encoded["query_ids"] = np.array(queries, np.int64).reshape(shape)
            encoded["labels"] = np.array(labels, np.int64).reshape(shape)
        return encoded

    def _sample(
        self, genes: NDArray[np.int64], counts: NDArray[Any], stream: Stream, max_length: int
    ) -> NDArray[np.int64]:
        """Genes in the order in which they are drawn, as many as fit."""
        if not len(genes):
            return genes
        weights = sampling_weights(counts)
        drawn = genes[stream.choice(len(genes), self.sample_size, replace=True, weights=weights)]
        chromosomes = self.statistics["chromosome"][drawn]
        first_on_it = np.zeros(len(drawn), np.int64)
        first_on_it[np.unique(chromosomes, return_index=True)[1]] = 1
        length = 1 + np.arange(1, len(drawn) + 1) + 2 * np.cumsum(first_on_it)
        fitting = int(np.searchsorted(length, max_length, side="right"))
        if fitting == 0:
            raise ValueError(f"max_length={max_length} leaves no place for a gene: a sentence of one has 4 tokens.")
        return drawn[:fitting]

    def _set_out(self, genes: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """The sentence of drawn genes."""
        place = self.statistics["chromosome"][genes].astype(np.int64)
        known = np.unique(place)
        shuffled = known.copy()
        stream.numpy.shuffle(shuffled)
        rank = np.empty(len(known), np.int64)
        rank[np.searchsorted(known, shuffled)] = np.arange(len(known))
        rank = rank[np.searchsorted(known, place)]
        order = np.lexsort((genes, self.statistics["start"][genes], rank))
        genes, rank = genes[order], rank[order]
        sentence = np.full(1 + len(genes) + 2 * len(known), self._end_id, np.int64)
        sentence[0] = self._cls_id
        sentence[2 + np.arange(len(genes)) + 2 * rank] = genes
        begin = np.searchsorted(rank, np.arange(len(known)))
        sentence[1 + begin + 2 * np.arange(len(known))] = shuffled
        return sentence


def sampling_weights(counts: ArrayLike) -> NDArray[np.float64]:
    """Probability of each expressed gene to be drawn, log(1 + count) over its sum, float64, (n_genes,).

    Counts with a fraction are cut to whole numbers first, as the original does.
    """
    # The original computes in single precision: what rounding it has decides draws at the edge.
    weights = np.log1p(np.trunc(np.asarray(counts, np.float64)).astype(np.float32)).astype(np.float64)
    return weights / weights.sum()


@lru_cache(maxsize=16)
def _bare_names(vocabulary: GeneVocabulary, species: str, placed: bytes) -> GeneVocabulary:
    """The vocabulary with the genes of one species by their symbols alone, those that have a place."""
    prefix = f"{species}:"
    names, others = [], dict(vocabulary.special_tokens)
    for token, has_place in zip(vocabulary.tokens, np.frombuffer(placed, bool).tolist(), strict=True):
        if has_place and token.startswith(prefix):
            names.append(token.removeprefix(prefix))
        else:
            names.append(token)
            others.setdefault(token, token)
    # Symbols of other species look like those of human or mouse: nothing is concluded from them.
    told = (species,) if species in SPECIES else ()
    # What no name of a file may mean counts as special.
    return GeneVocabulary(names, special_tokens=others, id_kind=vocabulary.id_kind, species=told)


SCHEME = UceScheme
