"""Nicheformer's scheme: tokens of species, assay and modality, then genes ranked against the mean of a technology."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from scfm_hf.models.nicheformer.context_nicheformer import Kind, context_token, technology_of
from scfm_hf.models.nicheformer.ties_nicheformer import numba_argsort
from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.rank import order_scores
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, ProfileBlock

#: How the technology means enter.
Means = Literal["rounded", "raw", "none"]
#: How genes of equal score are ordered.
Ties = Literal["stable", "numba"]


class NicheformerScheme(Scheme):
    """Orders each cell's genes by counts x (``target_sum`` / total) / mean of the gene over a technology.

    Offers the column ``scores`` (what was ranked, float64, 0 at context tokens) beside ``input_ids``.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; ``statistics["<technology>_mean"]`` is the mean of each gene
        over the cells of a technology, NaN where it was not measured.
    species, assay, modality
        Of all cells, such as ``"human"``, ``"10x 3' v3"``, ``"dissociated"``; None leaves the token out.
    species_column, assay_column, modality_column
        Column of obs that says so for each cell, in place of the former.
    technology
        Whose means to take: ``dissociated``, ``merfish``, ``cosmx``, ``xenium`` or ``iss``. None takes that of the
        assay; of assays that dissociate cells, ``dissociated``.
    technology_mean
        ``rounded`` to whole numbers, those that are NaN or 0 taken for 1, as for pretraining. ``raw`` as the original's
        notebook for embeddings does: every gene without a mean then follows the others in every cell. ``none``.
    log1p
        Rank log(1 + score), as the remote code on the Hugging Face hub does: scores that differ in their last bits
        become equal.
    target_sum
        Total over the genes of the vocabulary that a cell's counts are scaled to.
    ties
        ``stable`` keeps genes of equal score in the order of the vocabulary; ``numba`` is the original's order.
    duplicates
        What becomes of columns that mean the same gene.

    References
    ----------
    Tejada-Lapuerta et al. 2025, Nature Methods 22, Methods, "Tokenization".
    """

    from_corpus: ClassVar[Mapping[str, str]] = MappingProxyType({"{group}_mean": "nonzero_means"})

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        species: str | None = "human",
        assay: str | None = None,
        modality: str | None = "dissociated",
        species_column: str | None = None,
        assay_column: str | None = None,
        modality_column: str | None = None,
        technology: str | None = None,
        technology_mean: Means = "rounded",
        log1p: bool = False,
        target_sum: float = 10_000.0,
        ties: Ties = "stable",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        for name, value, known in (
            ("technology_mean", technology_mean, get_args(Means)),
            ("ties", ties, get_args(Ties)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, known))}.")
        given: dict[Kind, str | None] = {"species": species, "assay": assay, "modality": modality}
        self._tokens = {kind: None if name is None else context_token(kind, name) for kind, name in given.items()}
        for token in self._tokens.values():
            if token is not None:
                self._id(token)
        self._columns: dict[Kind, str | None] = {
            "species": species_column,
            "assay": assay_column,
            "modality": modality_column,
        }
        self.technology, self.technology_mean, self.log1p = technology, technology_mean, log1p
        self.target_sum, self.ties, self.duplicates = target_sum, ties, duplicates

    @classmethod
    def options_of(cls, roles: Collection[str], groups: Collection[str] = ()) -> dict[str, Any]:
        """The technology, where the corpus has one."""
        return {"technology": next(iter(groups))} if len(groups) == 1 else {}

    @property
    def taken_for(self) -> str | None:
        """``species``, unless a column says it for each cell."""
        token = self._tokens["species"]
        return None if token is None or self._columns["species"] is not None else token.strip("<>")

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` alone: no value enters the model."""
        return {"input_ids": Column(self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]])}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Species, assay and modality, those that are the same for all cells."""
        return tuple(token for token in self._tokens.values() if token is not None), ()

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Rank a block; see :meth:`Scheme.encode`."""
        context = self._context(block)
        genes, scores = self._scored(block, context)
        limit = max_length - context.shape[1]
        if limit < 1:
            raise ValueError(f"max_length={max_length} leaves no place for genes behind {context.shape[1]} tokens.")
        if self.ties == "stable" and scores.values.min(initial=0.0) >= 0:
            picked, lengths = order_scores(scores.values, genes.values, scores.offsets, limit)
        else:
            picked, lengths = self._order_one_by_one(scores, limit)
        zeros = np.zeros(context.shape[1])
        ids = Ragged.from_lengths(genes.values[picked], lengths).surround(zeros)
        ids.values[ids.offsets[:-1, None] + np.arange(context.shape[1])] = context
        return {"input_ids": ids, "scores": Ragged.from_lengths(scores.values[picked], lengths).surround(zeros)}

    def _context(self, block: ProfileBlock) -> NDArray[np.int64]:
        """Ids of the context tokens of each cell, (n_cells, n_context)."""
        found = []
        for kind, token in self._tokens.items():
            column = self._columns[kind]
            if column is not None:
                if column not in block.obs:
                    raise ValueError(f"obs has no column {column!r} with the {kind}. It has: {', '.join(block.obs)}.")
                names = block.obs[column].astype(str).tolist()
                found.append([self._id(context_token(kind, name)) for name in names])
            elif token is not None:
                found.append([self._id(token)] * block.n_cells)
        return np.array(found, np.int64).reshape(len(found), block.n_cells).T

    def _id(self, token: str) -> int:
        if token not in self.vocabulary.token_to_id:
            raise ValueError(f"The vocabulary lacks the context token {token}; leave it out with None.")
        return self.vocabulary.token_to_id[token]

    def _scored(self, block: ProfileBlock, context: NDArray[np.int64]) -> tuple[Ragged, Ragged]:
        """Genes of each cell in the order of the vocabulary, and their scores."""
        counts = block.counts.sorted_indices()
        genes = Ragged(block.gene_ids[counts.indices], counts.indptr)
        totals = counts.sum(axis=1, dtype=np.float64)
        scale = self.target_sum / np.where(totals == 0, 1.0, totals)
        # In this order of operations: it decides which scores are equal.
        scores = Ragged(counts.data.astype(np.float64) * scale[genes.row_numbers], genes.offsets)
        if self.technology_mean != "none":
            genes, scores = self._relative(genes, scores, self._technologies(block, context))
        return genes, Ragged(np.log1p(scores.values), scores.offsets) if self.log1p else scores

    def _technologies(self, block: ProfileBlock, context: NDArray[np.int64]) -> NDArray[np.str_]:
        """Technology of each cell, (n_cells,)."""
        if self.technology is not None or self._columns["assay"] is None:
            return np.full(block.n_cells, self.technology or technology_of(self._tokens["assay"]))
        place = int(self._tokens["species"] is not None or self._columns["species"] is not None)
        return np.array([technology_of(self.vocabulary.tokens[token]) for token in context[:, place]])

    def _relative(self, genes: Ragged, scores: Ragged, technologies: NDArray[np.str_]) -> tuple[Ragged, Ragged]:
        """Scores divided by the mean of their gene over the cell's technology."""
        divided = np.empty(len(scores.values))
        for technology in np.unique(technologies).tolist():
            chosen = (technologies == technology)[scores.row_numbers]
            divided[chosen] = scores.values[chosen] / self._means(technology)[genes.values[chosen]]
        scores = Ragged(divided, scores.offsets)
        if self.technology_mean != "raw":
            return genes, scores
        rows = []
        special = [self.vocabulary.token_to_id[token] for token in self.vocabulary.special_tokens.values()]
        for number, technology in enumerate(technologies.tolist()):
            unmeasured = np.setdiff1d(np.flatnonzero(np.isnan(self._means(technology))), special)
            added = np.setdiff1d(unmeasured, genes.row(number))
            ids = np.concatenate([genes.row(number), added])
            order = np.argsort(ids, kind="stable")
            rows.append((ids[order], np.append(scores.row(number), np.full(len(added), np.nan))[order]))
        return Ragged.from_rows([ids for ids, _ in rows], np.int64), Ragged.from_rows([made for _, made in rows], float)

    def _means(self, technology: str) -> NDArray[np.float64]:
        """Mean of each gene over a technology, as it enters."""
        name = f"{technology}_mean"
        if name not in self.statistics:
            known = ", ".join(sorted(one.removesuffix("_mean") for one in self.statistics)) or "none"
            raise ValueError(
                f"The tokenizer has no means of the technology {technology!r}. It has: {known}. Name one with "
                'technology=, or do without by technology_mean="none".'
            )
        means = self.statistics[name]
        return means if self.technology_mean == "raw" else rounded_means(means)

    def _order_one_by_one(self, scores: Ragged, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As ``order_scores``, for scores that are negative or NaN (they come last), or with the original's ties."""
        pieces = []
        for start, stop in zip(scores.offsets[:-1].tolist(), scores.offsets[1:].tolist(), strict=True):
            keys = -scores.values[start:stop]
            order = numba_argsort(keys) if self.ties == "numba" else np.argsort(keys, kind="stable")
            pieces.append(start + order[:limit])
        picked = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        return picked, np.array([len(piece) for piece in pieces], np.int64)


def rounded_means(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means as whole numbers, halves rounded up; 1 where they are 0 or NaN."""
    filled = np.nan_to_num(means)
    whole = np.where(filled % 1 >= 0.5, np.ceil(filled), np.floor(filled))
    return np.where(whole == 0, 1.0, whole)


SCHEME = NicheformerScheme
