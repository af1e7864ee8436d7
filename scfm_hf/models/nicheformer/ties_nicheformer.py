"""The order in which Nicheformer's original leaves genes of equal score: that of numba's quicksort.

It is deterministic, but depends on all the scores of a cell. About half of the tokens of a real cell stand elsewhere
than after a stable sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Runs shorter than this are sorted by insertion.
_SHORT = 15


def numba_argsort(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices that sort keys upwards, equal ones as numba's ``argsort`` leaves them; NaN counts as largest.

    Quicksort with the median of three as pivot, insertion sort for short runs.

    Parameters
    ----------
    keys
        (n,).
    """
    # Infinity in place of NaN keeps the comparisons plain; no score is infinite.
    values = np.where(np.isnan(keys), np.inf, keys).tolist()
    order = list(range(len(values)))
    stack = [(0, len(values) - 1)]
    while stack:
        low, high = stack.pop()
        while high - low >= _SHORT:
            pivot = _partition(values, order, low, high)
            if high - pivot > pivot - low:
                if high > pivot:
                    stack.append((pivot + 1, high))
                high = pivot - 1
            else:
                if pivot > low:
                    stack.append((low, pivot - 1))
                low = pivot + 1
        _insertion_sort(values, order, low, high)
    return np.array(order, np.int64)


def _partition(values: list[float], order: list[int], low: int, high: int) -> int:
    """Split a run at its pivot, and return where that is."""
    middle = (low + high) >> 1
    if values[order[middle]] < values[order[low]]:
        order[low], order[middle] = order[middle], order[low]
    if values[order[high]] < values[order[middle]]:
        order[high], order[middle] = order[middle], order[high]
    if values[order[middle]] < values[order[low]]:
        order[low], order[middle] = order[middle], order[low]
    pivot = values[order[middle]]
    order[high], order[middle] = order[middle], order[high]
    left, right = low, high - 1
    while True:
        while left < high and values[order[left]] < pivot:
            left += 1
        while right >= low and pivot < values[order[right]]:
            right -= 1
        if left >= right:
            break
        order[left], order[right] = order[right], order[left]
        left += 1
        right -= 1
    order[left], order[high] = order[high], order[left]
    return left


def _insertion_sort(values: list[float], order: list[int], low: int, high: int) -> None:
    """Sort a short run in place, equal ones in the order they have."""
    for place in range(low + 1, high + 1):
        moving = order[place]
        value = values[moving]
        before = place - 1
        while before >= low and value < values[order[before]]:
            order[before + 1] = order[before]
            before -= 1
        order[before + 1] = moving
