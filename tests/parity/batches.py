"""From stored arrays to the batches that the original ran, and from the model's outputs back to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Input:
    """A stored input of a call: lines for the array's cells, unless it has no cell axis.

    Parameters
    ----------
    argument
        What the golden calls it.
    values, has_cells, has_tokens
        The array, and which of its axes it has.
    """

    argument: str
    values: NDArray[Any]
    has_cells: bool
    has_tokens: bool


def as_arrays(output: Any) -> Any:
    """A model's output with arrays in place of tensors: mappings as dictionaries, tuples as tuples."""
    if isinstance(output, Tensor):
        return output.detach().cpu().numpy()
    if isinstance(output, Mapping):
        return {name: as_arrays(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return tuple(as_arrays(value) for value in output)
    return output


def join(parts: Sequence[Any], per_call: Sequence[str] = ()) -> Any:
    """Results of several groups as one: joined along the cells, NaN at the end of shorter ones; numbers one a group."""
    first = parts[0]
    if isinstance(first, Mapping):
        stacked = {name: [part[name] for part in parts] for name in first}
        return {name: np.stack(values) if name in per_call else join(values) for name, values in stacked.items()}
    if isinstance(first, tuple):
        return tuple(join(values) for values in zip(*parts, strict=True))
    if not isinstance(first, np.ndarray):
        return first
    if first.ndim == 0:
        return np.stack(parts)
    shape = np.max([part.shape[1:] for part in parts], axis=0).astype(int) if first.ndim > 1 else np.empty(0, int)
    if all(part.shape[1:] == tuple(shape) for part in parts):
        return np.concatenate(parts)
    joined = np.full((sum(map(len, parts)), *shape), np.nan)
    start = 0
    for part in parts:
        joined[(slice(start, start + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        start += len(part)
    return joined


def make_batch(inputs: Mapping[str, Input], lines: Sequence[int], *, trim: bool) -> dict[str, Tensor]:
    """Inputs of some lines as tensors, cut to the longest of them.

    A mask governs the arguments that share its prefix: ``gen_attention_mask`` those that begin with ``gen_``.
    """
    chosen = {name: given.values[list(lines)] if given.has_cells else given.values for name, given in inputs.items()}
    masks = {
        inputs[name].argument.removesuffix("attention_mask"): values
        for name, values in chosen.items()
        if inputs[name].argument.endswith("attention_mask")
    }
    batch: dict[str, Tensor] = {}
    for name, values in chosen.items():
        governing = (prefix for prefix in masks if inputs[name].argument.startswith(prefix))
        prefix = max(governing, key=len, default=None)
        if trim and prefix is not None and inputs[name].has_tokens and values.shape[:2] == masks[prefix].shape:
            values = values[:, : int(np.flatnonzero(masks[prefix].any(0)).max(initial=-1)) + 1]
        batch[name] = torch.from_numpy(np.array(values, order="C"))
    return batch


def reorder(joined: Any, order: NDArray[np.int64]) -> Any:
    """The lines of every array in another order; numbers of a group stay."""
    if isinstance(joined, Mapping):
        return {name: reorder(value, order) for name, value in joined.items()}
    if isinstance(joined, tuple):
        return tuple(reorder(value, order) for value in joined)
    return joined[order] if isinstance(joined, np.ndarray) and len(joined) == len(order) else joined
