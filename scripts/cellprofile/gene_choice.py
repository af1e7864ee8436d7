"""Genes of the vocabulary, how much each varies, and the corpus's main directions of variation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corpus import Study
    from numpy.typing import NDArray

#: Bins of genes of like mean, in which dispersions are compared.
N_BINS = 20
#: Most cells a study takes part in the decomposition with, so that large studies do not rule it.
MOST_CELLS = 1000
FLOOR, LARGEST = 0.05, 10.0


@dataclass(frozen=True)
class Choice:
    """Columns of the genes chosen, ascending, and the deviation of each, (n_chosen,)."""

    columns: NDArray[np.int64]
    deviation: NDArray[np.float64]


def log_values(counts: sparse.csr_matrix, totals: NDArray[np.float32]) -> sparse.csr_matrix:
    """log(1 + 10,000 x count / total)."""
    values = counts.astype(np.float32).copy()
    values.data *= np.repeat(1e4 / np.maximum(totals, 1), np.diff(values.indptr))
    np.log1p(values.data, out=values.data)
    return values


def scaled_values(study: Study, choice: Choice) -> sparse.csr_matrix:
    """What the tokenizer gives, (n_cells, n_chosen)."""
    values = log_values(study.counts, study.totals)[:, choice.columns]
    scale = sparse.diags_array((1 / (choice.deviation + FLOOR)).astype(np.float32))
    scaled = sparse.csr_matrix(values @ scale)
    scaled.data = np.minimum(scaled.data, LARGEST).astype(np.float32)
    return scaled


def choose_genes(studies: Sequence[Study], n_genes: int) -> Choice:
    """Genes that are dispersed in one study or in many, by the sum of two ranks; never those that no study varies in.

    Dispersion is variance over mean of the log values, standardised among genes of like mean within a study.
    """
    width = studies[0].counts.shape[1]
    variance, times, ranks = np.zeros(width), np.zeros(width), []
    for study in studies:
        values = log_values(study.counts, study.totals)
        mean = np.asarray(values.mean(0)).ravel()
        spread = np.maximum(np.asarray(values.multiply(values).mean(0)).ravel() - mean**2, 0)
        variance += np.where(study.measured, spread, 0)
        times += study.measured
        ranks.append(dispersion_ranks(mean, spread))
    table = np.array(ranks)
    known = ~np.isnan(table)
    best = np.where(known, table, width).min(0)
    average = np.where(known, table, width).mean(0)
    order = best.argsort().argsort() + average.argsort().argsort()
    columns = np.sort(order.argsort()[:n_genes])
    return Choice(columns, np.sqrt(variance / np.maximum(times, 1))[columns])


def dispersion_ranks(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each gene's dispersion among genes of like mean, NaN where the gene is not expressed."""
    expressed = mean > 0
    dispersion = variance / np.maximum(mean, 1e-6)
    edges = np.quantile(mean[expressed], np.linspace(0, 1, N_BINS + 1)[1:-1])
    bins = np.digitize(mean, edges)
    standard = np.full(len(mean), np.nan)
    for number in range(N_BINS):
        inside = expressed & (bins == number)
        if inside.sum() > 2:
            standard[inside] = (dispersion[inside] - dispersion[inside].mean()) / (dispersion[inside].std() + 1e-9)
    ranks = np.full(len(mean), np.nan)
    counted = np.flatnonzero(~np.isnan(standard))
    ranks[counted[np.argsort(-standard[counted])]] = np.arange(len(counted))
    return ranks


def directions(studies: Sequence[Study], choice: Choice, n_directions: int) -> NDArray[np.float32]:
    """Main directions of variation within studies, each divided by the root of its deviation, (n_chosen, n)."""
    random = np.random.default_rng(1)
    centred = []
    for study in studies:
        rows = random.choice(len(study.totals), min(MOST_CELLS, len(study.totals)), replace=False)
        values = scaled_values(study.take(rows), choice).toarray()
        centred.append(values - values.mean(0))
    stacked = np.concatenate(centred)
    _, _, axes = randomized_svd(stacked, n_directions, random_state=0)
    return (axes.T / np.sqrt((stacked @ axes.T).std(0))).astype(np.float32)
