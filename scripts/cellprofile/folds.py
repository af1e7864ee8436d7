"""What is left out of training, and what is then measured.

A transfer labels the cells of its second set by those of its first. Fold C was looked at last, after every choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from corpus import SETS

Transfer = tuple[str, str]


@dataclass(frozen=True)
class Fold:
    """Sets (or, after ``@``, a part of one) that no statistic and no step of training saw, and the transfers."""

    left_out: tuple[str, ...]
    transfers: tuple[Transfer, ...]
    few_labels: tuple[str, ...]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Sets of which at least a part is in training."""
        return tuple(name for name in SETS if name not in self.left_out)


RETINA = ("retina@donor_1", "retina@donor_3")
LINES = ("lines@Drop-seq", "lines@CEL-seq2")
FOLDS = {
    "A": Fold(
        ("sorted", "retina", "ifnb", "pollen"),
        (("pbmc3k", "sorted"), ("pbmc3k", "ifnb"), ("choroid", "tnbc"), ("choroid", "retina"), RETINA),
        ("sorted", "ifnb", "tnbc", "retina"),
    ),
    "B": Fold(
        ("pbmc3k", "choroid", "lines", "mixtures", "ifnb", "pollen"),
        (("sorted", "pbmc3k"), ("ifnb", "pbmc3k"), ("sorted", "ifnb"), ("retina", "choroid"), LINES),
        ("pbmc3k", "choroid", "lines"),
    ),
    "C": Fold(
        ("ifnb", "retina@donor_3", "lines@CEL-seq2", "mixtures", "pollen"),
        (("pbmc3k", "ifnb"), ("sorted", "ifnb"), RETINA, LINES),
        ("ifnb",),
    ),
    # The model that ships learns from all that may be shipped, but for the cells of the quickstart: tissues are what it
    # lacks.
    "shipped": Fold(
        ("pbmc3k",),
        (("sorted", "pbmc3k"), ("ifnb", "pbmc3k"), ("choroid", "tnbc")),
        ("pbmc3k", "tnbc"),
    ),
}
