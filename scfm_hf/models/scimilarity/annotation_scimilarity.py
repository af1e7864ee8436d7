"""Labels of cells from their neighbours in a reference, with the statistics by which SCimilarity judges them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import ArrayLike

    from scfm_hf.models.scimilarity.reference_scimilarity import CellReference

#: Distances count as no less than this when votes are weighted.
_SMALLEST_DISTANCE = 1e-6


def annotate_by_neighbours(
    embeddings: ArrayLike,
    reference: CellReference,
    *,
    labels: str = "label",
    n_neighbors: int = 50,
    weighted: bool = False,
    only: Collection[str] | None = None,
    without: Collection[str] | None = None,
) -> pd.DataFrame:
    """Label cells by the votes of their nearest reference cells.

    Parameters
    ----------
    embeddings
        Cells to label, (n_cells, latent_size).
    reference
        Labelled cells.
    labels
        Column of its metadata with the labels.
    n_neighbors
        Neighbours that vote.
    weighted
        Votes count 1 / distance.
    only, without
        Labels that alone may be given, or that may not: cells of other labels are not searched.

    Returns
    -------
    A line a cell: ``prediction`` (with equal votes the label that is met first, from the nearest on), ``min_distance``
    and ``max_distance`` of the neighbours (a cell whose nearest is far, more than about 0.03, is like none of the
    reference), ``share`` of the votes, ``share_of_two`` against the second label, both also from weighted votes, and
    ``votes``, ``weighted_votes``: label -> votes.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a label of ``only`` or ``without`` is not in the reference, or too few cells remain.
    """
    for name in {*(only or ()), *(without or ())}:
        if not reference.matching(**{labels: name}).any():
            raise ValueError(f"No cell of the reference has the label {name!r}.")
    among = None
    if only is not None or without is not None:
        among = reference.matching(**({labels: list(only)} if only is not None else {}))
        among &= ~reference.matching(**{labels: list(without or ())})
    hits = reference.nearest(embeddings, n_neighbors=n_neighbors, among=among)
    names = reference.metadata[labels].to_numpy()[hits.cells].reshape(hits.n_queries, -1)
    distances = hits.distances.reshape(hits.n_queries, -1)
    lines: list[dict[str, Any]] = []
    for near, far in zip(names.tolist(), distances.tolist(), strict=True):
        votes: dict[str, float] = dict(Counter(near))
        weights = dict.fromkeys(near, 0.0)
        for name, distance in zip(near, far, strict=True):
            weights[name] += 1 / max(distance, _SMALLEST_DISTANCE)
        chosen = weights if weighted else votes
        lines.append(
            {
                "prediction": max(chosen, key=chosen.__getitem__),
                "min_distance": far[0],
                "max_distance": far[-1],
                **_shares(votes, "votes"),
                **_shares(weights, "weighted_votes"),
            }
        )
    return pd.DataFrame(lines)


def _shares(votes: Mapping[str, float], name: str) -> dict[str, Any]:
    """How sure the votes are."""
    prefix = name.removesuffix("votes")
    best, second, *_ = [*sorted(votes.values(), reverse=True), 0.0]
    return {
        f"{prefix}share": best / sum(votes.values()),
        f"{prefix}share_of_two": best / (best + second),
        name: votes,
    }
