"""What CellProfile's pretraining asks for."""

from __future__ import annotations

import pytest
import torch

from scfm_hf.models.cellprofile.pretraining_cellprofile import supervised_contrast

UNKNOWN = -100


def contrast(vectors: list[list[float]], labels: list[int], **further: list[int]) -> float:
    n = len(labels)
    given = {"coarse_classes": labels, "view_of": list(range(n)), "studies": [0] * n, **further}
    tensors = {name: torch.tensor(values) for name, values in given.items()}
    return supervised_contrast(torch.tensor(vectors), torch.tensor(labels), **tensors, temperature=0.5).item()


RIGHT, UP = [1.0, 0.0], [0.0, 1.0]


def test_cells_of_a_class_belong_together() -> None:
    labels = [0, 0, 1, 1]
    assert contrast([RIGHT, RIGHT, UP, UP], labels) < contrast([RIGHT, UP, RIGHT, UP], labels)


def test_views_of_an_unlabelled_cell_belong_together() -> None:
    labels, views = [UNKNOWN] * 4, [0, 0, 1, 1]
    assert contrast([RIGHT, RIGHT, UP, UP], labels, view_of=views) < contrast(
        [RIGHT, UP, RIGHT, UP], labels, view_of=views
    )


def test_unlabelled_cells_of_another_study_are_not_told_apart() -> None:
    """Two studies may hold the same type of cell."""
    labels, views = [UNKNOWN] * 4, [0, 0, 1, 1]
    together = [RIGHT, RIGHT, RIGHT, RIGHT]
    assert contrast(together, labels, view_of=views, studies=[0, 0, 1, 1]) == pytest.approx(0, abs=1e-6)
    assert contrast(together, labels, view_of=views, studies=[0, 0, 0, 0]) > 0.5


def test_a_coarse_class_is_not_told_from_its_kinds() -> None:
    """1 is a kind of 0, as CD4 T cells are of T cells; 2 is another class."""
    together = [RIGHT, RIGHT, RIGHT, RIGHT]
    assert contrast(together, [0, 0, 1, 1], coarse_classes=[0, 0, 0, 0]) < contrast(together, [0, 0, 2, 2])


def test_a_cell_that_nothing_belongs_to_counts_nothing() -> None:
    assert contrast([RIGHT, UP], [0, 1]) == 0
