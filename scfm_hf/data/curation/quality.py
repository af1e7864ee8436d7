"""Quality figures of cells, and which of them stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.data.counts import Rows
    from scfm_hf.data.curation.canonical_genes import FileGenes

# A median absolute deviation times this is the standard deviation of a normal distribution.
_TO_STANDARD_DEVIATION = 1.4826
# Of fewer cells no median is taken.
_FEWEST_CELLS = 20
# Files with fewer genes are panels: a least number of genes or counts means nothing there.
_WHOLE_TRANSCRIPTOME = 5000


@dataclass(frozen=True, kw_only=True)
class QualityLimits:
    """Which cells are flagged for their quality.

    Parameters
    ----------
    min_counts, min_genes
        Least counts and genes of a cell; not asked of files with fewer than 5,000 genes.
    max_mitochondrial_share
        Greatest share of the counts that is of genes of the mitochondrion.
    n_mads
        A cell is an outlier of its sample if its log counts or log genes are further from the median than this many
        median absolute deviations (scaled to a standard deviation), to either side.
    n_mads_mitochondrial
        The same for the mitochondrial share, above the median only.

    References
    ----------
    Heumos et al. 2023, Best practices for single-cell analysis across modalities, Nat Rev Genet 24:550.
    """

    min_counts: float = 500
    min_genes: float = 200
    max_mitochondrial_share: float = 0.2
    n_mads: float = 5
    n_mads_mitochondrial: float = 3


#: Flag of quality -> what it means.
QUALITY_FLAGS = {
    "few_counts": "fewer counts than min_counts",
    "few_genes": "fewer genes than min_genes",
    "high_mitochondrial": "a larger share of mitochondrial counts than max_mitochondrial_share",
    "outlier": "counts, genes or mitochondrial share far from those of the cell's sample",
}


def quality_figures(counts: Rows, genes: FileGenes) -> pd.DataFrame:
    """Counts, genes and mitochondrial share of some cells.

    Parameters
    ----------
    counts
        Of the cells, over the columns of their file.
    genes
        Of the file.

    Returns
    -------
    ``n_counts`` (float64), ``n_genes`` (int64) and ``mitochondrial_share`` (float64, NaN where the file has no gene of
    the mitochondrion or the cell no counts), one line a cell.
    """
    totals = _sums(counts.values.astype(np.float64), counts.offsets)
    of_mitochondria = _sums(np.where(genes.mitochondrial[counts.columns], counts.values, 0.0), counts.offsets)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = of_mitochondria / totals
    if not genes.mitochondrial.any():
        share = np.full(len(totals), np.nan)
    return pd.DataFrame({"n_counts": totals, "n_genes": np.diff(counts.offsets), "mitochondrial_share": share})


def quality_flags(
    figures: pd.DataFrame, samples: NDArray[np.integer], n_file_genes: NDArray[np.integer], limits: QualityLimits
) -> pd.DataFrame:
    """Which cells are flagged.

    Parameters
    ----------
    figures
        Of all cells, from :func:`quality_figures`.
    samples
        Number of the sample of each cell, (n_cells,): those that are compared with each other.
    n_file_genes
        Genes in the file of each cell, (n_cells,).
    limits
        What is flagged.

    Returns
    -------
    One column of booleans a flag of :data:`QUALITY_FLAGS`, one line a cell.
    """
    whole = np.asarray(n_file_genes) >= _WHOLE_TRANSCRIPTOME
    logs = np.log1p(figures[["n_counts", "n_genes"]].to_numpy(np.float64))
    share = figures["mitochondrial_share"].to_numpy(np.float64)
    outlier = (np.abs(_deviations(logs[:, 0], samples)) > limits.n_mads) | (
        np.abs(_deviations(logs[:, 1], samples)) > limits.n_mads
    )
    return pd.DataFrame(
        {
            "few_counts": (figures["n_counts"].to_numpy() < limits.min_counts) & whole,
            "few_genes": (figures["n_genes"].to_numpy() < limits.min_genes) & whole,
            "high_mitochondrial": np.nan_to_num(share) > limits.max_mitochondrial_share,
            "outlier": outlier | (_deviations(share, samples) > limits.n_mads_mitochondrial),
        }
    )


def _deviations(values: NDArray[np.float64], samples: NDArray[np.integer]) -> NDArray[np.float64]:
    """How many scaled median absolute deviations each value is from the median of its sample; 0 where none is known."""
    column = pd.Series(values)
    by_sample = column.groupby(np.asarray(samples))
    centre = by_sample.transform("median")
    spread = (column - centre).abs().groupby(np.asarray(samples)).transform("median") * _TO_STANDARD_DEVIATION
    known = (by_sample.transform("count") >= _FEWEST_CELLS) & (spread > 0)
    return ((column - centre) / spread.where(known)).fillna(0).to_numpy(np.float64)


def _sums(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return sums[offsets[1:]] - sums[offsets[:-1]]
