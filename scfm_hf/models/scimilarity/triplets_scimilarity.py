"""Triplets of a batch: two cells of one label, and a cell of another that is not far enough away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Label of a cell that takes no part.
UNLABELLED = -100
#: Largest number of candidates that are looked at together.
_CHUNK = 2**24


@dataclass(frozen=True)
class Triplets:
    """Cells of a batch that shall move.

    Parameters
    ----------
    cells
        Anchor, positive and negative cell of each triplet, int64, (3, n_triplets).
    n_hard
        Candidates with a loss above 0, whichever was chosen.
    n_viable
        All candidates: pairs of one label x cells of another.
    """

    cells: Tensor
    n_hard: int
    n_viable: int


def mine_triplets(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    selection: str = "semihard",
    related: Tensor | None = None,
    studies: Tensor | None = None,
    choose: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Triplets:
    """Find the triplets of a batch, at most one for each pair of cells with one label.

    A candidate's loss is d(anchor, positive) - d(anchor, negative) + margin with **squared** Euclidean distances, as
    the original mines, although its loss has plain ones.

    Parameters
    ----------
    embeddings
        Unit vectors, (n_cells, latent_size).
    labels
        Class numbers, int64, (n_cells,); -100 leaves a cell out.
    margin, selection
        See ``SCimilarityConfig``.
    related
        Which labels are no negatives of each other, bool, (n_labels, n_labels), from :func:`related_labels`.
    studies
        Number of each cell's study, int64, (n_cells,): pairs are then of two studies.
    choose
        Picks one of so many candidates for each pair, int64, (n_pairs,) -> (n_pairs,); None: evenly at random.
    generator
        Of these draws; None: torch's own.

    Returns
    -------
    Triplets by label, then by the places of anchor and positive. Where there is none, the triplet of cell 0 with
    itself, whose loss is the margin and moves nothing.

    References
    ----------
    Heimberg et al. 2024, Nature 638, Methods; Schroff et al. 2015, "FaceNet".
    """
    embeddings = embeddings.detach()
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist").square()
    anchors, positives = _pairs(labels, studies)
    found: list[Tensor] = []
    n_hard = n_viable = 0
    for rows in torch.arange(len(anchors), device=labels.device).split(max(1, _CHUNK // max(len(labels), 1))):
        anchor, positive = anchors[rows], positives[rows]
        allowed = _negatives(labels, anchor, related)
        losses = distances[anchor, positive][:, None] - distances[anchor] + margin
        hard = allowed & (losses > 0)
        n_hard, n_viable = n_hard + int(hard.sum()), n_viable + int(allowed.sum())
        if selection == "hardest":
            negative = losses.masked_fill(~hard, -torch.inf).argmax(1)
            chosen = hard
        else:
            chosen = hard & (losses < margin) if selection == "semihard" else hard
            n_candidates = chosen.sum(1)
            negative = _nth(chosen, choose(n_candidates) if choose else _evenly(n_candidates, generator))
        some = chosen.any(1)
        found.append(torch.stack([anchor, positive, negative])[:, some])
    cells = torch.cat(found, 1) if found else labels.new_empty(3, 0)
    return Triplets(cells if cells.shape[1] else labels.new_zeros(3, 1), n_hard, n_viable)


def triplet_losses(embeddings: Tensor, triplets: Triplets, *, margin: float) -> Tensor:
    """max(|anchor - positive| - |anchor - negative| + margin, 0) of each triplet, (n_triplets,)."""
    anchors, positives, negatives = (embeddings[cells] for cells in triplets.cells)
    return nn.functional.triplet_margin_loss(anchors, positives, negatives, margin=margin, reduction="none")


def related_labels(names: Sequence[str], ancestors: Mapping[str, Sequence[str]] | None) -> Tensor:
    """Which labels are the same, or one an ancestor of the other, bool, (n_labels, n_labels).

    Parameters
    ----------
    names
        The labels, in the order of their numbers.
    ancestors
        Name -> names of its ancestors; labels that it does not name have none.
    """
    numbers = {name: number for number, name in enumerate(names)}
    related = torch.eye(len(names), dtype=torch.bool)
    for name, above in (ancestors or {}).items():
        for other in above:
            if name in numbers and other in numbers:
                related[numbers[name], numbers[other]] = related[numbers[other], numbers[name]] = True
    return related


def _pairs(labels: Tensor, studies: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pairs of cells with one label, by label, then by place."""
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    fit = (labels[first] == labels[second]) & (labels[first] != UNLABELLED)
    if studies is not None:
        fit &= studies[first] != studies[second]
    first, second = first[fit], second[fit]
    order = torch.argsort(labels[first], stable=True)
    return first[order], second[order]


def _negatives(labels: Tensor, anchors: Tensor, related: Tensor | None) -> Tensor:
    """Cells that may be a negative of each anchor, bool, (n_anchors, n_cells)."""
    others = labels[None] != labels[anchors][:, None]
    if related is not None:
        known = labels.clamp(min=0)
        others &= ~related.to(labels.device)[known[anchors][:, None], known[None]]
    return others & (labels != UNLABELLED)[None]


def _evenly(n_candidates: Tensor, generator: torch.Generator | None) -> Tensor:
    """A candidate of each pair at random."""
    draws = torch.rand(len(n_candidates), device=n_candidates.device, generator=generator)
    return (draws * n_candidates).long().clamp(max=n_candidates - 1)


def _nth(candidates: Tensor, numbers: Tensor) -> Tensor:
    """Place of the n-th candidate in each line; any place where there is none."""
    counted = candidates.cumsum(1)
    return (candidates & (counted == numbers[:, None] + 1)).int().argmax(1)
