"""Batches of cells of like length, so that little is computed on padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scfm_hf.tokenization.encoding import EncodedCells
    from scfm_hf.tokenization.scheme import Column


def batches_by_length(
    encoded: EncodedCells,
    columns: dict[str, Column],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
    """Yield (rows, model inputs) of the batches of :func:`rows_by_length`."""
    for chosen in rows_by_length(encoded, columns, batch_size=batch_size, tokens_per_batch=tokens_per_batch, rows=rows):
        yield chosen, model_inputs(encoded, columns, chosen)


def rows_by_length(
    encoded: EncodedCells,
    columns: dict[str, Column],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of batches, longest cells first, so that a lack of memory shows at once.

    Cells that a column joins come in one batch, in the order of the file, however many they are.

    Parameters
    ----------
    encoded
        Encoded cells.
    columns
        The scheme's columns, which say what stands at padding.
    batch_size
        Most cells a batch; None: as many as ``tokens_per_batch`` allows.
    tokens_per_batch
        Most tokens a batch, padding included; at least one cell comes in any case.
    rows
        Cells to take; None: all.
    """
    lengths = encoded.lengths
    joining = next((name for name, spec in columns.items() if spec.joins_cells and name in encoded.columns), None)
    if joining is not None:
        numbers = np.asarray(encoded.columns[joining])
        yield from _whole_sets(numbers, lengths, rows, batch_size=batch_size, tokens_per_batch=tokens_per_batch)
        return
    order = np.argsort(-lengths, kind="stable") if rows is None else rows[np.argsort(-lengths[rows], kind="stable")]
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        size = max(1, tokens_per_batch // longest)
        if batch_size is not None:
            size = min(size, batch_size)
        yield order[start : start + size]
        start += size


def _whole_sets(
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rows: NDArray[np.int64] | None,
    *,
    batch_size: int | None,
    tokens_per_batch: int,
) -> Iterator[NDArray[np.int64]]:
    """Rows of whole sets, sets with the longest cell first; a set that is larger than the limits comes alone."""
    rows = np.arange(len(numbers)) if rows is None else np.sort(rows)
    # Cells that nothing joins get numbers of their own.
    keys = np.where(numbers[rows] < 0, -1 - np.arange(len(rows)), numbers[rows])
    order = np.argsort(keys, kind="stable")
    sets = np.split(rows[order], np.flatnonzero(np.diff(keys[order])) + 1)
    sets.sort(key=lambda cells: -int(lengths[cells].max(initial=0)))
    batch: list[NDArray[np.int64]] = []
    longest = n_cells = 0
    for cells in sets:
        longest = max(longest, int(lengths[cells].max(initial=0)), 1)
        size = n_cells + len(cells)
        if batch and (size * longest > tokens_per_batch or (batch_size is not None and size > batch_size)):
            yield np.concatenate(batch)
            batch, n_cells, longest = [], 0, max(int(lengths[cells].max(initial=0)), 1)
        batch.append(cells)
        n_cells += len(cells)
    if n_cells:
        yield np.concatenate(batch)


def model_inputs(encoded: EncodedCells, columns: dict[str, Column], rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """Inputs of some cells, padded to the longest of them."""
    inputs: dict[str, torch.Tensor] = {}
    for name, column in encoded.columns.items():
        if not isinstance(column, Ragged):
            inputs[name] = torch.from_numpy(np.ascontiguousarray(column[rows]))
            continue
        chosen = column.take(rows)
        length = max(int(chosen.lengths.max(initial=0)), 1)
        spec = columns[name]
        inputs[name] = torch.from_numpy(chosen.to_padded(spec.pad, length).astype(spec.dtype, copy=False))
        if name == "input_ids":
            inputs["attention_mask"] = torch.from_numpy((np.arange(length) < chosen.lengths[:, None]).astype(np.int64))
    return inputs
