"""How training is judged and its batches are drawn: ontology-aware silhouette, scaled error, sampling weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray


def ontology_silhouette(
    embeddings: ArrayLike,
    labels: Sequence[str],
    *,
    ancestors: Mapping[str, Sequence[str]] | None = None,
    as_original: bool = False,
) -> float:
    """Mean silhouette width in which a cell's descendants belong to its cluster and its ancestors to no other.

    Parameters
    ----------
    embeddings
        (n_cells, latent_size); distances are squared Euclidean.
    labels
        Label of each cell.
    ancestors
        Label -> labels above it, ``config.label_ancestors``.
    as_original
        Divide the distances inside a cluster by one less than there are, as the original does.

    Returns
    -------
    Mean over the cells that have two others of their label or of one below it, in [-1, 1].

    Raises
    ------
    ValueError
        If there is no such cell, or for one of them no other label with two cells.

    References
    ----------
    Heimberg et al. 2024, Nature 638, Methods; Rousseeuw 1987.
    """
    from scipy.spatial.distance import cdist

    points, names = np.asarray(embeddings, np.float64), np.asarray(labels, object)
    distances = cdist(points, points, "sqeuclidean")
    above = {name: set((ancestors or {}).get(name, ())) for name in set(labels)}
    widths: list[float] = []
    for cell, name in enumerate(names):
        own = {other for other in above if other == name or name in above[other]}
        inside = np.isin(names, list(own))
        inside[cell] = False
        n_inside = int(inside.sum())
        if n_inside <= 1:
            continue
        cohesion = distances[cell, inside].sum() / (n_inside - 1 if as_original else n_inside)
        others = [other for other in above if other not in own | above[name] and (names == other).sum() > 1]
        if not others:
            raise ValueError(f"There is no label with two cells that {name!r} could be told from.")
        separation = min(distances[cell, names == other].mean() for other in others)
        widths.append((separation - cohesion) / max(separation, cohesion))
    if not widths:
        raise ValueError("No label has three cells: there is no cluster to judge.")
    return float(np.mean(widths))


def evaluation_score(silhouette: float, squared_error: float, profiles: ArrayLike) -> float:
    """What the authors stop training by, the less the better: (1 - silhouette) / 2 + scaled error of the profiles."""
    return (1 - silhouette) / 2 + scaled_error(squared_error, profiles)


def scaled_error(squared_error: float, profiles: ArrayLike) -> float:
    """Mean squared error of a reconstruction in units of the profiles' mean square."""
    return float(squared_error / np.square(np.asarray(profiles, np.float64)).mean())


def sampling_weights(labels: ArrayLike, studies: ArrayLike | None = None) -> NDArray[np.float64]:
    """Weights to draw cells by, so that common labels and large studies do not crowd out the others.

    Parameters
    ----------
    labels, studies
        Of each cell, (n_cells,); without studies every label is drawn equally often.

    Returns
    -------
    For ``torch.utils.data.WeightedRandomSampler``, float64, (n_cells,).
    """
    of_label = _sizes(labels)
    if studies is None:
        return 1 / of_label
    weights = 1 / np.log1p(of_label / 1e4) / np.log1p(_sizes(studies) / 1e6)
    return np.minimum(weights, 2 * np.quantile(weights, 0.999))


def _sizes(groups: ArrayLike) -> NDArray[np.float64]:
    """Size of the group of each cell."""
    _, numbers, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return counts[numbers].astype(np.float64)
