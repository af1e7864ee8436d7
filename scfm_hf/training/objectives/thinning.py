"""Cells as if they had been read less deeply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scfm_hf.tokenization.draws import Stream
    from scfm_hf.training.objectives.cell_batch import Profile

#: Scale of log values.
TARGET_SUM = 1e4


def thinned(profile: Profile, kept: float, stream: Stream) -> Profile:
    """Keep each count with a probability; never an empty cell: the whole one then.

    Parameters
    ----------
    profile
        Whole numbers.
    kept
        Probability, 0 to 1.
    stream
        What is drawn from.
    """
    drawn = profile.with_counts(stream.numpy.binomial(profile.counts.astype(np.int64), kept))
    return drawn if len(drawn.gene_ids) else profile


def log_values(counts: np.ndarray, total: float) -> np.ndarray:
    """log(1 + counts scaled to a total of 10,000), float32."""
    return np.log1p(counts / max(total, 1.0) * TARGET_SUM).astype(np.float32)
