"""A corpus for the ``datasets`` library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import datasets

    from scfm_hf.data.stream import CellStream


def to_datasets(stream: CellStream) -> datasets.IterableDataset:
    """See :meth:`scfm_hf.data.stream.CellStream.to_datasets`."""
    import datasets

    windows = {"stream": stream, "windows": list(range(stream.n_windows))}
    return datasets.IterableDataset.from_generator(_cells_of_windows, features=features(stream), gen_kwargs=windows)


def features(stream: CellStream) -> datasets.Features:
    """Types of what a cell holds: lists of numbers, class labels, names and numbers of obs."""
    from datasets import ClassLabel, Features, List, Value

    sample = next(stream.window_of(0))
    typed: dict[str, Any] = {}
    for name, value in sample.items():
        annotation = stream.annotation.get(name)
        if annotation is not None and annotation.names is not None:
            typed[name] = ClassLabel(names=list(annotation.names)) if annotation.as_code else Value("string")
        elif hasattr(value, "dtype"):
            typed[name] = List(Value(str(value.dtype)))
        else:
            typed[name] = Value({str: "string", bool: "bool", int: "int64"}.get(type(value), "float64"))
    return Features(typed)


def _cells_of_windows(stream: CellStream, windows: list[int]) -> Iterator[dict[str, Any]]:
    for number in windows:
        yield from stream.window_of(number)
