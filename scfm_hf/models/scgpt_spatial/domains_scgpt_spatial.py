"""Spatial domains: labels of spots, smoothed by those of the spots around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Neighbours of a spot by the arrangement of the spots: hexagons as Visium, squares as Visium HD and ST.
_NEIGHBOURS = {"hexagon": 6, "square": 4}


def refine_labels(
    labels: ArrayLike, coordinates: ArrayLike, *, shape: Literal["hexagon", "square"] = "hexagon"
) -> NDArray[Any]:
    """Give a spot the label of most spots around it, where few of them have its own.

    A spot changes if fewer than half as many spots as it has neighbours share its label, itself counted, and more than
    that share another.

    Parameters
    ----------
    labels
        Domain of each spot, (n_spots,).
    coordinates
        (n_spots, 2).
    shape
        Arrangement of the spots: six neighbours, or four.

    Returns
    -------
    Labels, (n_spots,).

    Raises
    ------
    ValueError
        If there is no such arrangement.

    References
    ----------
    Hu et al. 2021, Nature Methods 18 (SpaGCN).
    """
    if shape not in _NEIGHBOURS:
        raise ValueError(f"shape={shape!r} is not one of {', '.join(map(repr, _NEIGHBOURS))}.")
    n_neighbours, places = _NEIGHBOURS[shape], np.asarray(coordinates, np.float64)
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    n_near = min(n_neighbours + 1, len(places))
    near = cKDTree(places).query(places, n_near)[1].reshape(len(places), n_near)
    counts = np.zeros((len(places), len(names)), np.int64)
    np.add.at(counts, (np.arange(len(places))[:, None], numbers[near]), 1)
    own = counts[np.arange(len(places)), numbers]
    changes = (own < n_neighbours / 2) & (counts.max(1) > n_neighbours / 2)
    return names[np.where(changes, counts.argmax(1), numbers)]


def spot_distance(coordinates: ArrayLike) -> float:
    """Smallest distance between two spots, in the unit of the coordinates, (n_spots, 2)."""
    places = np.asarray(coordinates, np.float64)
    if len(places) < 2:
        raise ValueError("There must be two spots at least.")
    return float(cKDTree(places).query(places, 2)[0][:, 1].min())
