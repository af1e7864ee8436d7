"""tGPT's scheme: genes by count, highest first, between a start and an end token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.rank import rank_genes
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock

#: Proteins of the ribosome; RPS6KA1 and its like are kinases.
_RIBOSOMAL = re.compile(r"RP[LS](P\d+|A\d*|\d+(A|L|X|Y|AL)?\d*)")
_MITOCHONDRIAL = re.compile(r"MT[-_.].*")


class TGPTScheme(Scheme):
    """Orders each cell's expressed genes by count.

    Offers two columns beside ``input_ids``: ``token_type_ids``, the zeros that the original's tokenizer gives (the
    model adds what they stand for by itself), and ``counts``, 0 at special tokens.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    exclude_ribosomal, exclude_mitochondrial, exclude_malat1
        Leave these genes out before ranking. The authors' script from counts to ranks is not public; their examples
        hold none of these genes.
    gene_order
        Order of genes with equal counts: ``vocabulary``, or ``file``, which depends on how the file is written.
    duplicates
        What becomes of columns that mean the same gene.

    References
    ----------
    Shen et al. 2023, iScience 26, "Generative pretraining from large-scale transcriptomes for single-cell deciphering".
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        exclude_ribosomal: bool = False,
        exclude_mitochondrial: bool = False,
        exclude_malat1: bool = False,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        self.gene_order, self.duplicates = gene_order, duplicates
        patterns = [
            pattern
            for pattern, wanted in (
                (_RIBOSOMAL, exclude_ribosomal),
                (_MITOCHONDRIAL, exclude_mitochondrial),
                (re.compile("MALAT1"), exclude_malat1),
            )
            if wanted
        ]
        # What a count is divided by; no number: the gene is left out.
        self._divisors = np.array(
            [np.nan if any(one.fullmatch(token) for one in patterns) else 1.0 for token in vocabulary.tokens]
        )

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` alone: no value enters the model."""
        return {"input_ids": Column(self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]])}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Start and end token, which the authors write ``</b>`` and ``</s>``."""
        special = self.vocabulary.special_tokens
        return (special["bos"],), (special["eos"],)

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Rank a block; see :meth:`Scheme.encode`."""
        ids = self.vocabulary.token_to_id
        (start,), (end,) = self.surrounding_tokens
        ranked = rank_genes(
            block.counts,
            np.ones(block.n_cells),
            self._divisors,
            gene_ids=block.gene_ids,
            max_genes=max_length - 2,
            target_sum=1.0,
        )
        input_ids = ranked.gene_ids.surround([ids[start]], [ids[end]])
        return {
            "input_ids": input_ids,
            "token_type_ids": Ragged(np.zeros(len(input_ids.values), np.int64), input_ids.offsets),
            "counts": ranked.scores.surround([0.0], [0.0]),
        }


SCHEME = TGPTScheme
