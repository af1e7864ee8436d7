"""Reads runs of a flat array on disk more quickly than its own library, which has the last word on odd ones."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import deflate
import numpy as np

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

# More than this the system may read in several steps.
_LARGEST_READ = 2**30


def quick_values(array: Any) -> Any:
    """What slices of an array are best read through: the array itself, where nothing quicker is known.

    Parameters
    ----------
    array
        Flat; of HDF5, zarr or NumPy. Quicker ways exist for HDF5 that is stored as it is in a local file, or in chunks
        compressed by gzip (with or without shuffled bytes), and for zarr in local shards.
    """
    import h5py

    if hasattr(array, "shards"):
        from scfm_hf.data.zarr_shards import sharded_values

        return sharded_values(array)
    if not isinstance(array, h5py.Dataset) or array.ndim != 1 or not len(array) or array.dtype.kind not in "iufb":
        return array
    properties = array.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if filters in ([h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]):
        return _DeflatedValues(array, shuffled=len(filters) == 2)
    file = array.file
    # Only HDF5's driver for plain files has a handle; after a user block places are counted from elsewhere.
    plain = not filters and not array.external and file.driver == "sec2" and not file.userblock_size
    return _PlainValues(array) if plain and hasattr(os, "preadv") and hasattr(array.id, "chunk_iter") else array


class ChunkedValues(ABC):
    """Slices put together of pieces of chunks.

    Parameters
    ----------
    array
        Flat, of HDF5 or zarr, whose chunks a subclass reads; its own slices are taken wherever that cannot.
    """

    def __init__(self, array: Any) -> None:
        self._array, self.dtype = array, array.dtype
        self.shape: tuple[int, ...] = array.shape
        self._size = int(array.chunks[0] if array.chunks else array.shape[0])

    def __getitem__(self, span: slice) -> NDArray[Any]:
        first, last, _ = span.indices(self.shape[0])
        values = np.empty(max(0, last - first), self.dtype)
        start = first
        while start < last:
            chunk = start // self._size
            stop = min(last, (chunk + 1) * self._size)
            if not self._fill(values[start - first : stop - first], chunk, start - chunk * self._size):
                values[start - first : stop - first] = self._array[start:stop]
            start = stop
        return values

    @abstractmethod
    def _fill(self, values: NDArray[Any], chunk: int, first: int) -> bool:
        """Put values of a chunk, from its ``first`` on, into an array; False where that cannot be done."""


class UnpackedChunks(ChunkedValues):
    """Chunks that are unpacked as a whole; the last one is kept, as the next slice often begins in it."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self._last: tuple[int, NDArray[Any]] | None = None

    def _fill(self, values: NDArray[Any], chunk: int, first: int) -> bool:
        if self._last is None or self._last[0] != chunk:
            unpacked = self._unpacked(chunk)
            if unpacked is None:
                return False
            self._last = chunk, unpacked
        values[:] = self._last[1][first : first + len(values)]
        return True

    @abstractmethod
    def _unpacked(self, chunk: int) -> NDArray[Any] | None:
        """A whole chunk, or None where that cannot be had."""


class _PlainValues(ChunkedValues):
    """Values as they are, read from their place in the file; HDF5 copies whole chunks, and those twice."""

    def __init__(self, array: h5py.Dataset) -> None:
        super().__init__(array)
        self._handle = array.file.id.get_vfd_handle()

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Byte of the file where each chunk starts; -1 where HDF5 must be asked.

        All are listed at once: HDF5 looks for a single one from the beginning.
        """
        if not self._array.chunks:
            start = self._array.id.get_offset()
            return np.array([-1 if start is None else start])
        places = np.full(-(-self.shape[0] // self._size), -1, np.int64)
        n_bytes = self._size * self.dtype.itemsize

        def note(stored: Any) -> None:
            if stored.size == n_bytes and stored.byte_offset is not None:
                places[stored.chunk_offset[0] // self._size] = stored.byte_offset

        self._array.id.chunk_iter(note)
        return places

    def _fill(self, values: NDArray[Any], chunk: int, first: int) -> bool:
        place = int(self._places[chunk])
        # The handle of a closed file may be that of another by now.
        if place < 0 or values.nbytes > _LARGEST_READ or not self._array.id.valid:
            return False
        start = place + first * self.dtype.itemsize
        if os.preadv(self._handle, [values.view(np.uint8).data], start) < values.nbytes:
            raise OSError("the file ends before its values")  # HDF5 would take them for zeros
        return True


class _DeflatedValues(UnpackedChunks):
    """Compressed chunks, unpacked by libdeflate in a third of the time that HDF5 takes; it verifies the checksum."""

    def __init__(self, array: h5py.Dataset, *, shuffled: bool) -> None:
        super().__init__(array)
        self._shuffled = shuffled

    def _unpacked(self, chunk: int) -> NDArray[Any] | None:
        n_bytes = self._size * self.dtype.itemsize
        try:
            skipped_filters, stored = self._array.id.read_direct_chunk((chunk * self._size,))
            unpacked: bytes | bytearray = deflate.zlib_decompress(stored, n_bytes)
        except (OSError, RuntimeError, ValueError, deflate.DeflateError):
            return None
        if skipped_filters or len(unpacked) != n_bytes:
            return None
        if self._shuffled:  # first the first byte of all values, then the second
            unpacked = np.frombuffer(unpacked, np.uint8).reshape(self.dtype.itemsize, self._size).T.tobytes()
        return np.frombuffer(unpacked, self.dtype)
