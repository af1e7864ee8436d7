"""Reads runs of a flat zarr array in local shards, as annbatch writes them, without zarr's machinery for each run."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.stored_values import UnpackedChunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# What the index of a shard says of a chunk that was not written.
_ABSENT = 2**64 - 1


def sharded_values(array: Any) -> Any:
    """What slices of a zarr array are best read through: the array itself, unless it is flat and in local shards.

    Its chunks must be little-endian numbers, compressed by Blosc, Zstandard or gzip or not at all.
    """
    from zarr.codecs import ShardingCodec
    from zarr.storage import LocalStore

    if array.ndim != 1 or not array.shards or not isinstance(array.store, LocalStore):
        return array
    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or array.dtype.kind not in "iuf":
        return array
    unpack = _unpacker(codecs[0])
    return array if unpack is None else _ShardedValues(array, unpack)


def _unpacker(shards: Any) -> Callable[[bytes], bytes] | None:
    """How a chunk is unpacked, if its bytes and the index of a shard are of the usual kinds."""
    import numcodecs
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

    number, *packed = shards.codecs
    kinds = [type(codec) for codec in shards.index_codecs]
    little = isinstance(number, BytesCodec) and getattr(number.endian, "value", "little") == "little"
    if not little or kinds != [BytesCodec, Crc32cCodec] or str(shards.index_location.value) != "end" or len(packed) > 1:
        return None
    if not packed:
        return bytes
    known = {BloscCodec: numcodecs.Blosc, ZstdCodec: numcodecs.Zstd, GzipCodec: numcodecs.GZip}
    codec = next((codec for kind, codec in known.items() if isinstance(packed[0], kind)), None)
    return None if codec is None else codec().decode


class _ShardedValues(UnpackedChunks):
    """Chunks found by the index at the end of their shard."""

    def __init__(self, array: Any, unpack: Callable[[bytes], bytes]) -> None:
        super().__init__(array)
        self._unpack, self._n_inside = unpack, array.shards[0] // array.chunks[0]
        self._folder = Path(array.store.root) / array.path
        self._index = lru_cache(maxsize=64)(self._read_index)

    def _file(self, shard: int) -> Path:
        return self._folder / self._array.metadata.encode_chunk_key((shard,))

    def _read_index(self, shard: int) -> NDArray[np.uint64]:
        """Where in its file each chunk of a shard begins, and its bytes, (n_chunks, 2); a checksum follows."""
        n_bytes = self._n_inside * 16
        with self._file(shard).open("rb") as file:
            end = file.seek(-(n_bytes + 4), os.SEEK_END)
            index = np.frombuffer(file.read(n_bytes), "<u8").reshape(-1, 2)
        there = index[index[:, 0] != _ABSENT].astype(np.float64)
        if (there.sum(axis=1) > end).any():
            raise ValueError("the index of a shard points beyond its file")
        return index

    def _unpacked(self, chunk: int) -> NDArray[Any] | None:
        shard, inside = divmod(chunk, self._n_inside)
        try:
            place, n_bytes = map(int, self._index(shard)[inside])
            if place == _ABSENT:
                return None
            with self._file(shard).open("rb") as file:
                file.seek(place)
                values = np.frombuffer(self._unpack(file.read(n_bytes)), self.dtype)
        except (OSError, RuntimeError, ValueError):
            return None
        return values if len(values) == self._size else None
