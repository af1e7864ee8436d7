"""The one rule of comparison: |got - expected| <= tolerance * (1 + |expected|), everywhere; tolerance 0 means equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from parity.golden import Golden, GoldenArray

#: Axes along which more may be computed than is stored.
_CUT_AXES = ("token", "query", "key")


@dataclass(frozen=True)
class Keyed:
    """Values whose lines are named by keys and may come in any order.

    Parameters
    ----------
    values
        One line a key.
    keys
        One array for each of the golden array's ``keys``, (n_lines,) or (n_lines, n_parts) each; a single array for a
        single key.
    """

    values: ArrayLike
    keys: ArrayLike | tuple[ArrayLike, ...]


@dataclass(frozen=True)
class Comparison:
    """How far an array is from the expected one.

    Parameters
    ----------
    difference
        Largest absolute difference; NaN if nothing could be compared.
    scaled
        Largest |got - expected| / (1 + |expected|), which the tolerance limits.
    index
        Where that is.
    got, expected
        The two numbers there.
    compared
        How many numbers were compared.
    problem
        Why they differ, None if they do not.
    """

    difference: float
    scaled: float
    index: tuple[int, ...] = ()
    got: float = float("nan")
    expected: float = float("nan")
    compared: int = 0
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the array is as expected."""
        return self.problem is None


class Mismatch(ValueError):
    """The array cannot be compared at all: another shape, other keys."""


def compare(
    golden: Golden, array: GoldenArray, got: ArrayLike | Keyed, *, real: NDArray[Any] | None = None
) -> Comparison:
    """Compare what the library gives with a stored array.

    Parameters
    ----------
    golden, array
        Where the array is stored, and what is said about it.
    got
        Lines for ``array.cells`` in their order (for all rows if there is no such key); more tokens than stored are
        cut. NaN stands
        for what was not computed.
    real
        1 at real tokens, (n_cells, n_tokens), where the array has no mask of its own and its padding is not to be
        compared.
    """
    expected = np.asarray(golden.values(array.name), np.float64)
    try:
        if isinstance(got, Keyed):
            got, expected = _by_keys(golden, array, got, expected)
        got = _fit(array, np.asarray(got, np.float64), expected.shape)
    except Mismatch as mismatch:
        return Comparison(float("nan"), float("inf"), problem=str(mismatch))
    wanted = _wanted(golden, array, expected.shape, real)
    if array.tie_groups is not None:
        got, expected, wanted = _by_ties(golden, array, got, expected, wanted)
    return _difference(got, expected, wanted, array.tolerance)


def _difference(
    got: NDArray[np.float64], expected: NDArray[np.float64], wanted: NDArray[np.bool_], tolerance: float
) -> Comparison:
    if not wanted.any():
        return Comparison(0.0, 0.0) if expected.size == 0 else Comparison(0.0, 0.0, problem="nothing of it is compared")
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        absolute = np.where(same | ~wanted, 0.0, np.abs(got - expected))
        scaled = np.where(same | ~wanted, 0.0, absolute / (1 + np.abs(expected)))
    scaled[np.isnan(scaled)] = absolute[np.isnan(absolute)] = np.inf
    index = np.unravel_index(int(scaled.argmax()), scaled.shape)
    largest = float(scaled[index])
    found = Comparison(
        difference=float(absolute.max()),
        scaled=largest,
        index=tuple(map(int, index)),
        got=float(got[index]),
        expected=float(expected[index]),
        compared=int(wanted.sum()),
    )
    if largest <= tolerance:
        return found
    problem = (
        f"{int((scaled > tolerance).sum())} of {found.compared} numbers differ; most at {list(found.index)}: "
        f"{found.got:.9g} instead of {found.expected:.9g} ({largest:.3g} > {tolerance:g})"
    )
    return Comparison(**{**found.__dict__, "problem": problem})


def _fit(array: GoldenArray, got: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Cut to the stored positions; a place that was not computed becomes NaN."""
    if got.ndim == len(shape) + 1 and len(got) == 1 and not array.has_cells:
        got = got[0]
    if got.size == 1 and int(np.prod(shape)) == 1:
        return got.reshape(shape)
    if got.ndim != len(shape):
        raise Mismatch(f"it has the shape {got.shape}, not {shape}")
    axes = array.axis or ("",) * len(shape)
    for number, (name, size) in enumerate(zip(axes, shape, strict=True)):
        if name not in _CUT_AXES:
            continue
        positions = array.positions if array.positions is not None and name != "key" else range(size)
        missing = max(positions, default=-1) + 1 - got.shape[number]
        if missing > 0:
            widths = [(0, missing if other == number else 0) for other in range(got.ndim)]
            got = np.pad(got, widths, constant_values=np.nan)
        got = np.take(got, list(positions), axis=number)
    if got.shape != shape:
        raise Mismatch(f"it has the shape {got.shape}, not {shape}")
    return got


def _wanted(golden: Golden, array: GoldenArray, shape: tuple[int, ...], real: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Which places are compared: those where the mask is 1, all if there is none."""
    wanted = np.ones(shape, bool)
    if array.where is None and real is None:
        return wanted
    if array.where is not None:
        mask = golden.lines(array.where, golden.cells_of(array)).astype(bool)
        if not array.has_cells and golden.arrays[array.where].has_cells:
            mask = mask[0]
    else:
        mask = np.asarray(real, bool)
    axes = array.axis or ()
    token_axes = [number for number, name in enumerate(axes) if name in _CUT_AXES]
    for number in token_axes:
        positions = (
            list(array.positions or range(shape[number])) if axes[number] != "key" else list(range(shape[number]))
        )
        lead = np.ones((*mask.shape[:-1], array.where_offset), bool)
        line = np.take(np.concatenate([lead, mask], axis=-1), positions, axis=-1)
        form = [1] * len(shape)
        form[number] = shape[number]
        if line.ndim == 2:
            form[axes.index("cell")] = len(line)
        wanted &= line.reshape(form)
    return wanted


def _by_ties(
    golden: Golden, array: GoldenArray, got: NDArray[Any], expected: NDArray[Any], wanted: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Sort the numbers inside each group of ties, so that any order of them is right.

    Where the context cut the last group, any of its members may have stayed: only how many is compared, and the ranked
    ``values``.
    """
    cells = golden.cells_of(array)
    groups = np.atleast_2d(golden.lines(array.tie_groups or "", cells))[:, : expected.shape[-1]]
    cut = _is_cut(golden, array, groups, cells)
    got, expected, wanted = (part.reshape(len(groups), -1).copy() for part in (got, expected, wanted))
    for line, numbers in enumerate(groups):
        for group in np.unique(numbers):
            places = numbers == group
            got[line, places], expected[line, places] = np.sort(got[line, places]), np.sort(expected[line, places])
        if cut[line] and array.stem.rpartition(".")[2] != "values":
            last = np.flatnonzero(numbers == numbers.max())
            wrong = np.isnan(got[line, last])
            if array.tolerance == 0:
                # What takes a place of the last group must be no member of another group, and no special token.
                wrong |= np.isin(got[line, last], np.delete(expected[line], last))
            got[line, last[wrong]] = np.nan
            wanted[line, last] &= wrong
    return got, expected, wanted


def _is_cut(
    golden: Golden, array: GoldenArray, groups: NDArray[np.integer[Any]], cells: Sequence[int]
) -> NDArray[np.bool_]:
    """Which lines lost genes to the context; groups of genes are numbered from 0."""
    prefix = (array.tie_groups or "").removesuffix("tie_groups")
    if f"{prefix}full_length" in golden.arrays:
        return np.atleast_1d(golden.lines(f"{prefix}full_length", cells)) > (groups >= 0).sum(-1)
    options = golden.case(array.case).options
    limits = [options.get(name) for name in ("model_input_size", "max_length", "max_len")]
    if golden.values(array.tie_groups or "").shape[-1] not in limits:
        return np.zeros(len(groups), bool)
    if f"{prefix}attention_mask" in golden.arrays:
        return np.atleast_2d(golden.lines(f"{prefix}attention_mask", cells)).all(-1)
    return np.ones(len(groups), bool)


def _by_keys(
    golden: Golden, array: GoldenArray, got: Keyed, expected: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides in the order of their keys; lines of equal keys in the order of their values."""
    values = np.asarray(got.values, np.float64)
    got_keys = _key_columns(got.keys if isinstance(got.keys, tuple) else (got.keys,))
    expected_keys = _key_columns([golden.values(name) for name in array.keys])
    if (
        len(got_keys) != len(values)
        or len(expected_keys) != len(expected)
        or got_keys.shape[1:] != expected_keys.shape[1:]
    ):
        raise Mismatch(
            f"keys of the shape {got_keys.shape} name values of {values.shape}; "
            f"stored are keys of {expected_keys.shape} for {expected.shape}"
        )
    got_order, expected_order = _order(got_keys, values), _order(expected_keys, expected)
    got_keys, expected_keys = got_keys[got_order], expected_keys[expected_order]
    if got_keys.shape != expected_keys.shape or (got_keys != expected_keys).any():
        raise Mismatch(_other_keys(got_keys, expected_keys))
    return values[got_order], expected[expected_order]


def _key_columns(keys: Sequence[ArrayLike]) -> NDArray[Any]:
    return np.concatenate([np.asarray(key).reshape(len(np.asarray(key)), -1) for key in keys], axis=1)


def _order(keys: NDArray[Any], values: NDArray[np.float64]) -> NDArray[np.int64]:
    columns = np.concatenate([keys.astype(np.float64), values.reshape(len(values), -1)], axis=1)
    return np.lexsort(columns.T[::-1])


def _other_keys(got: NDArray[Any], expected: NDArray[Any]) -> str:
    found, wanted = ({tuple(line) for line in keys.tolist()} for keys in (got, expected))
    return (
        f"it has {len(got)} lines, not {len(expected)}; "
        f"{len(wanted - found)} keys have none (first: {sorted(wanted - found)[:3]}), "
        f"{len(found - wanted)} have one too many (first: {sorted(found - wanted)[:3]})"
    )
