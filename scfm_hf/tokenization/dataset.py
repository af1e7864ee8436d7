"""Encoded cells as a ``datasets.Dataset``, by flat Arrow columns without a Python list a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets
    import pandas as pd

    from scfm_hf.tokenization.encoding import EncodedCells


def to_dataset(
    encoded: EncodedCells, obs: pd.DataFrame, *, labels: str | None = None, columns: Sequence[str] = ()
) -> datasets.Dataset:
    """Make a Dataset of encoded cells; see :meth:`scfm_hf.CellTokenizer.to_dataset`."""
    import pyarrow as pa
    from datasets import ClassLabel, Dataset

    table: dict[str, pa.Array] = {}
    for name, column in encoded.columns.items():
        if isinstance(column, Ragged):
            table[name] = column.to_arrow()
        elif column.ndim == 1:
            table[name] = pa.array(column)
        else:
            flat = Ragged(column.reshape(-1), np.arange(len(column) + 1, dtype=np.int64) * column.shape[1])
            table[name] = flat.to_arrow()
    table["length"] = pa.array(encoded.lengths)
    table["cell_id"] = pa.array(encoded.cell_ids.astype(object), pa.string())
    absent = [name for name in [*([labels] if labels else []), *columns] if name not in obs]
    if absent:
        raise KeyError(f"obs has no column {', '.join(map(repr, absent))}. It has {', '.join(map(repr, obs.columns))}.")
    for name in columns:
        values = obs[name].astype(str) if obs[name].dtype.name == "category" else obs[name]
        table[name] = pa.array(values.to_numpy())
    names: list[str] = []
    if labels:
        categories = obs[labels].astype("category").cat.remove_unused_categories()
        codes = categories.cat.codes.to_numpy().astype(np.int64)
        if (codes < 0).any():
            unlabelled = obs.index[codes < 0]
            raise ValueError(
                f"{len(unlabelled)} cells have no {labels!r} (first: {', '.join(map(str, unlabelled[:5]))}). "
                "Leave them out, or give them a class of their own."
            )
        names = [str(name) for name in categories.cat.categories]
        table["labels"] = pa.array(codes)
    dataset = Dataset(pa.table(table))
    return dataset.cast_column("labels", ClassLabel(names=names)) if labels else dataset
