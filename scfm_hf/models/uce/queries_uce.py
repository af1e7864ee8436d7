"""Genes withheld from a cell's sentence, and genes to ask for: what UCE is pretrained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.tokenization.draws import Stream


class GeneSplit(NamedTuple):
    """What becomes of a cell's genes in pretraining.

    Parameters
    ----------
    kept
        Positions among the expressed genes that may enter the sentence, ascending, int64.
    queries
        Genes to ask for, numbered among all genes of the file, int64, (n_queries,).
    labels
        1 expressed and withheld, 0 not expressed, -100 no gene was left to ask for, int64, (n_queries,).
    """

    kept: NDArray[np.int64]
    queries: NDArray[np.int64]
    labels: NDArray[np.int64]


def split_genes(
    expressed: NDArray[np.int64], n_genes: int, *, share: float, n_queries: int, stream: Stream
) -> GeneSplit:
    """Withhold part of a cell's expressed genes, and choose which genes to ask for.

    Parameters
    ----------
    expressed
        Expressed genes, numbered among all genes of the file, ascending.
    n_genes
        Genes of the file.
    share
        Part of the expressed genes that is withheld; at least one gene stays.
    n_queries
        Genes to ask for: half of them withheld ones, the others not expressed, each at most once.
    stream
        The cell's random numbers.
    """
    shuffled = stream.permutation(len(expressed))
    n_withheld = min(round(share * len(expressed)), max(len(expressed) - 1, 0))
    withheld, kept = shuffled[:n_withheld], np.sort(shuffled[n_withheld:])
    absent = np.setdiff1d(np.arange(n_genes), expressed, assume_unique=True)
    n_positive = min(n_queries // 2, n_withheld)
    n_negative = min(n_queries - n_queries // 2, len(absent))
    negative = absent[stream.permutation(len(absent))[:n_negative]]
    queries, labels = np.zeros(n_queries, np.int64), np.full(n_queries, -100)
    queries[:n_positive] = expressed[withheld[:n_positive]]
    queries[n_positive : n_positive + n_negative] = negative
    labels[:n_positive] = 1
    labels[n_positive : n_positive + n_negative] = 0
    return GeneSplit(kept, queries, labels)
