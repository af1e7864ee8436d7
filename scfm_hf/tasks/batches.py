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
    tokens_per_batch: int = 16_384,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[tuple[NDArray[np.int64], dict[str, torch.Tensor]]]:
    """Yield (rows, model inputs), longest cells first, so that a lack of memory shows at once.

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
    order = np.argsort(-lengths, kind="stable") if rows is None else rows[np.argsort(-lengths[rows], kind="stable")]
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        size = max(1, tokens_per_batch // longest)
        if batch_size is not None:
            size = min(size, batch_size)
        chosen = order[start : start + size]
        yield chosen, model_inputs(encoded, columns, chosen)
        start += size


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
