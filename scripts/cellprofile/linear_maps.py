"""What is found without training: which genes carry more than noise, and the linear maps of a profile.

A gene counts by the share of its variance within studies that is not the noise of counting molecules: each cell's
molecules are dealt into two halves, which share all but that noise. The mean profile is taken out, since all cells
have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from corpus import Study
from gene_choice import Choice, scaled_values
from sklearn.utils.extmath import randomized_svd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy import sparse

#: Most cells a study takes part with, so that large studies do not rule.
MOST_CELLS = 1000
#: The share of a gene that is not noise, plus a floor, is raised to this power.
FLOOR_OF_SHARE, POWER = 0.02, 2
#: Standard deviation of the encoder's first states before training.
START_SCALE = 0.2


@dataclass(frozen=True)
class LinearMaps:
    """Lines a gene: start of the encoder (n_genes, hidden_size), factors and sketch."""

    start: NDArray[np.float32]
    factors: NDArray[np.float32]
    sketch: NDArray[np.float32]

    @property
    def table(self) -> NDArray[np.float32]:
        """All side by side, (n_genes, width)."""
        return np.concatenate([self.start, self.factors, self.sketch], axis=1)


def find_linear_maps(
    studies: Sequence[Study], choice: Choice, *, hidden_size: int, factor_size: int, sketch_size: int
) -> LinearMaps:
    """Weigh the genes, take out the mean profile, and find the main directions of variation within studies."""
    studies = _sample(studies)
    weights = ((signal_share(studies, choice) + FLOOR_OF_SHARE) ** POWER).astype(np.float32)
    values = [scaled_values(study, choice).multiply(weights).tocsr() for study in studies]
    means = np.array([np.asarray(one.mean(0)).ravel() for one in values])
    common = np.linalg.svd(means, full_matrices=False)[2][:1].T.astype(np.float32)
    centred = np.concatenate([one.toarray() - mean for one, mean in zip(values, means, strict=True)]).astype(np.float32)
    centred -= (centred @ common) @ common.T
    axes = randomized_svd(centred, hidden_size, random_state=0)[2].T
    random = np.random.default_rng(0)
    sketch = random.choice(np.array([-1, 1], np.float32), (len(weights), sketch_size)) / sketch_size**0.5

    def lines(directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted, without the mean profile, and of such a size that half precision keeps them."""
        free = weights[:, None] * (directions - common @ (common.T @ directions))
        return (free / np.abs(free).max()).astype(np.float32)

    deviation = np.sqrt((centred @ axes).std(0))
    return LinearMaps(_start(lines(axes / deviation), values), lines(axes[:, :factor_size]), lines(sketch))


def _start(lines: NDArray[np.float32], values: Sequence[sparse.csr_matrix]) -> NDArray[np.float32]:
    """Scaled to small first states, so that training soon finds its own."""
    return START_SCALE * lines / np.concatenate([one @ lines for one in values]).std()


def signal_share(studies: Sequence[Study], choice: Choice) -> NDArray[np.float64]:
    """Share of each gene's variance within studies that two halves of a cell's molecules have in common, in [0, 1]."""
    random = np.random.default_rng(2)
    common, total = np.zeros(len(choice.columns)), np.zeros(len(choice.columns))
    for study in studies:
        half = study.counts.copy()
        half.data = random.binomial(half.data.astype(np.int64), 0.5).astype(np.float32)
        first, second = (
            scaled_values(Study(part.tocsr(), study.totals / 2, study.measured, study.labels, study.parts), choice)
            for part in (half, study.counts - half)
        )
        means = [np.asarray(one.mean(0)).ravel() for one in (first, second)]
        common += np.asarray(first.multiply(second).mean(0)).ravel() - means[0] * means[1]
        total += sum(
            np.asarray(one.multiply(one).mean(0)).ravel() - mean**2
            for one, mean in zip((first, second), means, strict=True)
        )
    return np.clip(common / np.maximum(total / 2, 1e-9), 0, 1)


def _sample(studies: Sequence[Study]) -> list[Study]:
    random = np.random.default_rng(1)
    return [
        study.take(random.choice(len(study.totals), min(MOST_CELLS, len(study.totals)), replace=False))
        for study in studies
    ]
