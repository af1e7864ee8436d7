"""How a corpus is cut into shards, and the table of each: a pure function of the plan and the shard's number."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scfm_hf.data.interchange import arrow_table, features
from scfm_hf.data.order import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import datasets
    import pyarrow as pa

    from scfm_hf.data.annotation import CellAnnotation
    from scfm_hf.data.stream import CellStream
    from scfm_hf.tokenization import CellTokenizer

#: Order of the rows: as they are stored, file after file, or mixed as the stream mixes them.
RowOrder = Literal["files", "mixed"]
#: Blocks of rows encoded at a time where the rows keep their order; they are all that is held as NumPy arrays.
_BLOCKS = 16


class ShardPlan:
    """Which cells each shard holds. It pickles, so that any process of any machine can make any shard.

    Parameters
    ----------
    stream
        The corpus, loaded with a tokenizer; in the order ``mixed``, its windows are the shards, and its epoch counts.
    tokenizer
        The one that the stream was loaded with.
    options
        What else decides the rows, for the manifest: plain values.
    order
        Of the rows.
    shard_size
        Cells a shard, about: shards are whole blocks of the stream.
    """

    def __init__(
        self,
        stream: CellStream,
        tokenizer: CellTokenizer,
        *,
        options: dict[str, Any],
        order: RowOrder = "files",
        shard_size: int = 8192,
    ) -> None:
        self._stream, self.tokenizer, self.options, self.order = stream, tokenizer, dict(options), order
        if order == "files":
            blocks = stream.stored_blocks
            ends = np.cumsum(blocks.sizes)
            n_shards = min(max(1, round(int(ends[-1]) / shard_size)), len(blocks))
            self._edges = np.arange(n_shards + 1) * len(blocks) // n_shards
        elif order != "mixed":
            raise ValueError(f'order={order!r} is neither "files" nor "mixed".')
        self.features = _features(stream)

    def __len__(self) -> int:
        return self._stream.n_windows if self.order == "mixed" else len(self._edges) - 1

    @property
    def n_cells(self) -> int:
        """Rows of all shards."""
        return self._stream.n_cells

    @property
    def description(self) -> dict[str, Any]:
        """All that decides the rows, plain values: shards of equal descriptions are equal."""
        return {
            "n_shards": len(self),
            "n_cells": self.n_cells,
            # As many shards can be cut at other places, and obs is in no digest of a file.
            "block_size": int(self._stream.stored_blocks.sizes.max()),
            "annotation": {name: _digest(column) for name, column in self._stream.annotation.items()},
            "order": self.order,
            "options": self.options,
            "tokenizer": tokenizer_digest(self.tokenizer),
            "files": self.files,
        }

    @property
    def files(self) -> list[dict[str, Any]]:
        """The files in their order: ``file`` (below the folder that all of them are in), ``n_cells``, ``digest``."""
        names = _names([file.place for file in self._stream.files])
        return [
            {"file": name, "n_cells": file.n_cells, "digest": file.digest}
            for name, file in zip(names, self._stream.files, strict=True)
        ]

    def table(self, number: int) -> pa.Table:
        """The rows of a shard.

        Raises
        ------
        CorpusError
            If a file is damaged, was changed, or holds a value that is no count.
        """
        import pyarrow as pa

        schema = self.features.arrow_schema
        tables = []
        for part in self._parts(number):
            cells = self._stream.read(part)
            if "input_ids" in cells:
                cells["length"] = [len(ids) for ids in cells["input_ids"]]
            tables.append(arrow_table(cells, schema))
        return pa.concat_tables(tables)

    def _parts(self, number: int) -> list[Window]:
        if self.order == "mixed":
            return [self._stream.window(number)]
        first, last = int(self._edges[number]), int(self._edges[number + 1])
        parts = []
        for start in range(first, last, _BLOCKS):
            blocks = self._stream.stored_blocks[slice(start, min(start + _BLOCKS, last))]
            parts.append(Window(blocks, 0, np.arange(blocks.sizes.sum())))
        return parts


def tokenizer_digest(tokenizer: CellTokenizer) -> str:
    """Sha256 of all that decides what a tokenizer makes of a cell; the same after saving and loading."""
    digest = sha256(tokenizer.vocabulary_digest.encode())
    cell_options = {**tokenizer.init_kwargs.get("cell_options", {}), "vocabulary_digest": None}
    described = [cell_options, tokenizer.init_kwargs.get("matching", {}), str(tokenizer.model_max_length)]
    digest.update(json.dumps(described, sort_keys=True).encode())
    digest.update(json.dumps(tokenizer.identifiers, sort_keys=True).encode())
    for name, values in sorted(tokenizer.statistics.items()):
        digest.update(name.encode() + np.ascontiguousarray(values, np.float64).tobytes())
    return digest.hexdigest()


def _features(stream: CellStream) -> datasets.Features:
    """Types of the columns: those of the stream, with small whole numbers, and without the mask, which says nothing."""
    from datasets import Features, List, Value

    typed: dict[str, Any] = {}
    for name, feature in features(stream).items():
        annotation = stream.annotation.get(name)
        if name == "attention_mask":
            continue
        if isinstance(feature, List) and feature.feature == Value("int64"):
            feature = List(Value("int32"))
        elif annotation is not None and annotation.names is None:
            feature = Value(str(annotation.values.dtype))
        typed[name] = feature
        if name == "input_ids":
            typed["length"] = Value("int32")
    return Features(typed)


def _digest(column: CellAnnotation) -> str:
    digest = sha256(json.dumps([str(column.values.dtype), column.names]).encode())
    digest.update(np.ascontiguousarray(column.values).tobytes())
    return digest.hexdigest()[:16]


def _names(places: Sequence[str]) -> list[str]:
    """Paths below the folder that all of them are in; URLs in full."""
    local = [place for place in places if "://" not in place]
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(place)) for place in local]) if local else ""
    return [place if "://" in place else os.path.relpath(os.path.abspath(place), shared) for place in places]
