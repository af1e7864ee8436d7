"""A corpus for other libraries: ``datasets``, and Arrow tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.order import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    import datasets
    import pyarrow as pa

    from scfm_hf.data.stream import CellStream
    from scfm_hf.data.window_reader import Cells


def to_datasets(stream: CellStream) -> datasets.IterableDataset:
    """See :meth:`scfm_hf.data.stream.CellStream.to_datasets`."""
    import datasets

    windows = {"stream": stream, "windows": list(range(stream.n_windows))}
    return datasets.IterableDataset.from_generator(_cells_of_windows, features=features(stream), gen_kwargs=windows)


def features(stream: CellStream) -> datasets.Features:
    """Types of what a cell holds: lists of numbers, class labels, names and numbers of obs."""
    from datasets import ClassLabel, Features, List, Value

    typed: dict[str, Any] = {}
    for name, (value, *_) in stream.read(Window(stream.stored_blocks[:1], 0, np.arange(1))).items():
        annotation = stream.annotation.get(name)
        if annotation is not None and annotation.names is not None:
            typed[name] = ClassLabel(names=list(annotation.names)) if annotation.as_code else Value("string")
        elif hasattr(value, "dtype"):
            typed[name] = List(Value(str(value.dtype)))
        else:
            typed[name] = Value({str: "string", bool: "bool", int: "int64"}.get(type(value), "float64"))
    return Features(typed)


def arrow_schema(stream: CellStream) -> pa.Schema:
    """The same types for Arrow tables, without what ``datasets`` adds."""
    import pyarrow as pa

    return pa.schema([(field.name, field.type) for field in features(stream).arrow_schema])


def arrow_table(cells: Cells, schema: pa.Schema) -> pa.Table:
    """Cells as an Arrow table, without a Python list a cell."""
    import pyarrow as pa

    columns = []
    for field in schema:
        entries = cells[field.name]
        if pa.types.is_list(field.type):
            offsets = np.concatenate([[0], np.cumsum([len(entry) for entry in entries])]).astype(np.int32)
            flat = np.concatenate([*entries, np.empty(0, entries[0].dtype if entries else np.int64)])
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(flat)).cast(field.type))
        else:
            columns.append(pa.array(entries, field.type))
    return pa.table(columns, schema=schema)


def _cells_of_windows(stream: CellStream, windows: list[int]) -> Iterator[dict[str, Any]]:
    for number in windows:
        yield from stream.window_of(number)
