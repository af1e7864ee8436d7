"""Triplets of a batch, their loss, and the labels that they are drawn by."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.scimilarity.originals import ONTOLOGY

from scfm_hf.models.scimilarity.labels_scimilarity import blur_labels, shared_terms
from scfm_hf.models.scimilarity.ontology_scimilarity import CellOntology
from scfm_hf.models.scimilarity.triplets_scimilarity import mine_triplets, related_labels, triplet_losses

MARGIN = 0.3
NAMES = ["a", "b", "below a"]
RELATED = related_labels(NAMES, {"below a": ["a", "not a label"]})


def cells_of(seed: int, n_cells: int) -> torch.Tensor:
    points = torch.randn(n_cells, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(points, dim=1)


def one_by_one(
    points: torch.Tensor, labels: list[int], studies: list[int] | None, selection: str
) -> tuple[list[tuple[int, int, int]], int, int]:
    """The definition; of several candidates the last is chosen."""
    chosen: list[tuple[int, int, int]] = []
    n_hard = n_viable = 0
    for label in sorted({*labels} - {-100}):
        members = [cell for cell, own in enumerate(labels) if own == label]
        others = [c for c, own in enumerate(labels) if own not in (label, -100) and not RELATED[label, own]]
        for anchor, positive in combinations(members, 2):
            if studies is not None and studies[anchor] == studies[positive]:
                continue
            near = (points[anchor] - points[positive]).square().sum()
            losses = {c: float(near - (points[anchor] - points[c]).square().sum() + MARGIN) for c in others}
            n_viable += len(losses)
            n_hard += sum(loss > 0 for loss in losses.values())
            highest = MARGIN if selection == "semihard" else float("inf")
            fit = [cell for cell, loss in losses.items() if 0 < loss < highest]
            if fit:
                chosen.append(
                    (anchor, positive, max(fit, key=losses.__getitem__) if selection == "hardest" else fit[-1])
                )
    return chosen or [(0, 0, 0)], n_hard, n_viable


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    labels=st.lists(st.sampled_from([0, 1, 2, -100]), min_size=1, max_size=12),
    studies=st.booleans(),
    selection=st.sampled_from(["semihard", "hardest", "random"]),
)
def test_triplets_are_those_of_the_definition(seed: int, labels: list[int], studies: bool, selection: str) -> None:
    points = cells_of(seed, len(labels))
    of_cell = [cell % 2 for cell in range(len(labels))] if studies else None
    found = mine_triplets(
        points,
        torch.tensor(labels),
        margin=MARGIN,
        selection=selection,
        related=RELATED,
        studies=torch.tensor(of_cell) if of_cell else None,
        choose=lambda counts: (counts - 1).clamp(min=0),
    )
    expected, n_hard, n_viable = one_by_one(points, labels, of_cell, selection)
    assert [tuple(cells) for cells in found.cells.T.tolist()] == expected
    assert (found.n_hard, found.n_viable) == (n_hard, n_viable)


def test_candidates_are_drawn_evenly_and_by_the_generator() -> None:
    points, labels = cells_of(3, 40), torch.arange(40) % 2
    options = {"margin": 3.0, "selection": "random"}
    first, again, other = (
        mine_triplets(points, labels, **options, generator=torch.Generator().manual_seed(seed)).cells
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[2].unique().numel() > 30


def test_a_large_batch_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = cells_of(4, 30), torch.arange(30) % 3
    whole = mine_triplets(points, labels, margin=MARGIN, selection="hardest")
    monkeypatch.setattr("scfm_hf.models.scimilarity.triplets_scimilarity._CHUNK", 100)
    parts = mine_triplets(points, labels, margin=MARGIN, selection="hardest")
    assert torch.equal(parts.cells, whole.cells)
    assert (parts.n_hard, parts.n_viable) == (whole.n_hard, whole.n_viable)


def test_where_there_is_no_triplet_the_loss_is_the_margin() -> None:
    points = cells_of(0, 4).requires_grad_()
    found = mine_triplets(points, torch.zeros(4, dtype=torch.long), margin=MARGIN)
    losses = triplet_losses(points, found, margin=MARGIN)
    assert losses.tolist() == pytest.approx([MARGIN])
    losses.sum().backward()
    assert points.grad.abs().max() < 1e-5


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.fixture
def ontology() -> CellOntology:
    return CellOntology.from_obo(ONTOLOGY)


def test_every_relation_leads_upwards(ontology: CellOntology) -> None:
    assert ontology.parents("CL:4") == {"CL:1", "CL:2"}
    assert ontology.ancestors("CL:4") == {"CL:0", "CL:1", "CL:2"}
    assert ontology.descendants("CL:1") == {"CL:2", "CL:3", "CL:4", "CL:6"}
    assert ontology.siblings("CL:3") == {"CL:2", "CL:4"}
    assert ontology.similarity("CL:3", "CL:2") == 2
    assert "CL:5" not in ontology.names
    with pytest.raises(ValueError, match="no obo file"):
        CellOntology.from_obo("<html>")


def test_the_nearest_ancestor_must_be_the_only_one_as_near(ontology: CellOntology) -> None:
    assert ontology.nearest_ancestor("CL:6", {"CL:3", "CL:1"}) == "CL:3"
    assert ontology.nearest_ancestor("CL:6", {"CL:0"}) == "CL:0"
    assert ontology.nearest_ancestor("CL:6", {"CL:2"}) is None
    assert ontology.nearest_ancestor("CL:4", {"CL:1", "CL:2"}) is None


def test_labels_are_related_by_name(ontology: CellOntology) -> None:
    names = ["T cell", "CD4 T cell", "B cell", "no term"]
    above = ontology.label_ancestors(names)
    assert above == {"CD4 T cell": ["T cell"]}
    assert torch.nonzero(related_labels(names, above)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [3, 3]]


def test_terms_of_one_study_become_coarser_or_none(ontology: CellOntology) -> None:
    terms, studies = ["CL:3", "CL:3", "CL:6", "CL:2", "CL:2"], ["one", "two", "one", "two", "two"]
    assert shared_terms(terms, studies, ontology) == ["CL:3", "CL:3", "CL:3", None, None]
    assert shared_terms(["CL:0000792", "CL:0000815"], ["one", "two"], ontology) == ["CL:0000815"] * 2


def test_blurred_labels_are_parents_in_the_batch() -> None:
    labels = torch.tensor([1, 1, 1, 0, 2, -100] * 10)
    blurred = blur_labels(labels, NAMES, {"b": ["a", "unknown"]}, generator=torch.Generator().manual_seed(0))
    changed = blurred != labels
    assert (labels[changed] == 1).all()
    assert (blurred[changed] == 0).all()
    assert 5 < changed.sum() < 25
    assert torch.equal(blur_labels(labels[labels != 0], NAMES, {"b": ["a"]}), labels[labels != 0])
