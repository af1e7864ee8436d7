"""How often each cell comes in an epoch, so that rare tissues, cell types or studies are seen more."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def balanced_weights(groups: Sequence[ArrayLike], *, temperature: float = 2.0) -> NDArray[np.float64]:
    """Weights that sample a group of n cells in proportion to n^(1 / temperature).

    Parameters
    ----------
    groups
        Columns of one value a cell each; cells that agree in all of them are one group. Missing values are a value.
    temperature
        1 leaves the groups as large as they are, infinity makes them all equally large.

    Returns
    -------
    float64, (n_cells,), with a mean of 1.

    Raises
    ------
    ValueError
        If the temperature is below 1.
    """
    if not temperature >= 1:
        raise ValueError(f"temperature must be at least 1, not {temperature}: 1 changes nothing, more balances more.")
    codes = np.zeros(len(np.asarray(groups[0])), np.int64)
    for group in groups:
        values, _ = pd.factorize(np.asarray(group), use_na_sentinel=False)
        codes = np.unique(codes * (values.max(initial=0) + 1) + values, return_inverse=True)[1]
    sizes = np.bincount(codes).astype(np.float64)
    weights = (sizes ** (1 / temperature - 1))[codes]
    return weights * (len(weights) / weights.sum())


def repeats_in_epoch(weights: NDArray[np.float64], *, seed: int, epoch: int) -> NDArray[np.int32]:
    """How often each cell comes in an epoch: a whole number beside what its weight asks for.

    Systematic sampling: a cell of weight 2.3 comes twice or three times, one of weight 0.1 in a tenth of the epochs,
    and every epoch has as many cells as the corpus. Which ones are rounded up depends on the seed and the epoch.

    Parameters
    ----------
    weights
        At least zero each, (n_cells,).
    seed, epoch
        Of the order.

    Returns
    -------
    int32, (n_cells,), with a sum of n_cells.

    References
    ----------
    Madow 1949, On the theory of systematic sampling II.
    """
    n_cells = len(weights)
    ends = np.cumsum(weights, dtype=np.float64)
    ends *= n_cells / ends[-1]
    ends[-1] = n_cells
    drawn = blake2b(f"{int(seed)}\x1f{epoch}\x1frepeats".encode(), digest_size=8).digest()
    shift = int.from_bytes(drawn, "little") / 2**64
    # The k-th cell of the epoch is the one whose stretch of the line holds k + shift.
    return np.diff(np.ceil(ends - shift).astype(np.int64), prepend=0).astype(np.int32)
