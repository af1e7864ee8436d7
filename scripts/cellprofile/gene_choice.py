"""Genes of the vocabulary, and how much each varies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scfm_hf.tasks.own_components import dispersion_ranks, log_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corpus import Study
    from numpy.typing import NDArray

#: Added to the deviation of a gene, and where values are cut; as in the tokenizer.
FLOOR, LARGEST = 0.05, 10.0


@dataclass(frozen=True)
class Choice:
    """Columns of the genes chosen, ascending, and the deviation of each, (n_chosen,)."""

    columns: NDArray[np.int64]
    deviation: NDArray[np.float64]


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
