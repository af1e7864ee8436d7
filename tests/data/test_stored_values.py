"""Values read past HDF5 and zarr are those that these give, and damage is left to them to name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec

from scfm_hf.data.stored_values import quick_values

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).poisson(3, 1000).astype(np.float32)
SPANS = [(0, 1000), (0, 1), (99, 101), (100, 200), (350, 351), (905, 1000), (500, 500), (980, 1200)]
STORED: dict[str, dict[str, Any]] = {
    "plain": {"chunks": (100,)},
    "in one piece": {},
    "gzip": {"chunks": (96,), "compression": "gzip"},
    "shuffled": {"chunks": (96,), "compression": "gzip", "shuffle": True},
    "shuffled whole numbers": {"chunks": (96,), "compression": "gzip", "shuffle": True, "dtype": np.int64},
    "big-endian": {"chunks": (96,), "compression": "gzip", "dtype": ">i4"},
}


@pytest.mark.parametrize("options", STORED.values(), ids=STORED.keys())
def test_every_slice_is_the_one_that_hdf5_gives(tmp_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "values.h5", "w") as file:
        file.create_dataset("values", data=VALUES.astype(options.get("dtype", np.float32)), **options)
    with h5py.File(tmp_path / "values.h5") as file:
        quick = quick_values(file["values"])
        assert quick is not file["values"]
        assert quick.shape == (1000,)
        for first, last in SPANS:
            expected = file["values"][first:last]
            assert quick[first:last].dtype == expected.dtype
            assert np.array_equal(quick[first:last], expected)


@pytest.mark.parametrize(
    "options",
    [{"chunks": (100,), "compression": "lzf"}, {"chunks": (100,), "compression": "gzip", "fletcher32": True}],
)
def test_values_stored_in_another_way_are_left_to_hdf5(tmp_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "values.h5", "w") as file:
        stored = file.create_dataset("values", data=VALUES, **options)
        assert quick_values(stored) is stored


def test_chunks_are_not_looked_for_at_wrong_places_of_a_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "values.h5", "w", userblock_size=512) as file:
        file.create_dataset("values", data=VALUES, chunks=(100,))
    with h5py.File(tmp_path / "values.h5") as file:
        assert np.array_equal(quick_values(file["values"])[:], VALUES)
    with (tmp_path / "values.h5").open("rb") as stream, h5py.File(stream) as file:
        assert np.array_equal(quick_values(file["values"])[:], VALUES)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunks_that_were_never_written_and_those_stored_uncompressed_are_read(
    tmp_path: Path, compression: str | None
) -> None:
    with h5py.File(tmp_path / "values.h5", "w") as file:
        stored = file.create_dataset("values", (1000,), np.float32, chunks=(100,), compression=compression, fillvalue=7)
        stored[300:400] = VALUES[300:400]
        stored.id.write_direct_chunk((500,), VALUES[500:600].tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "values.h5") as file:
        read = quick_values(file["values"])[:]
        assert np.array_equal(read[300:400], VALUES[300:400])
        assert np.array_equal(read[500:600], VALUES[500:600])
        assert (read[:300] == 7).all()


def test_a_damaged_chunk_and_a_closed_file_are_refused_as_by_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "values.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("values", data=VALUES, chunks=(100,), compression="gzip")
        file.create_dataset("plain", data=VALUES, chunks=(100,))
        place = file["values"].id.get_chunk_info(5).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 20 : place + 30] = b"\xff" * 10
    path.write_bytes(content)
    with h5py.File(path) as file:
        quick, plain = quick_values(file["values"]), quick_values(file["plain"])
        assert np.array_equal(quick[0:500], VALUES[:500])
        assert np.array_equal(plain[0:500], VALUES[:500])
        with pytest.raises(OSError, match="filter"):
            quick[450:550]
    with pytest.raises(RuntimeError, match="identifier"):
        plain[0:10]


SHARDED: dict[str, dict[str, Any]] = {
    "lz4": {"compressors": BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")},
    "zstd": {"compressors": ZstdCodec()},
    "gzip": {"compressors": GzipCodec()},
    "not compressed": {"compressors": None},
}


def write_shards(folder: Path, values: np.ndarray, **options: Any) -> zarr.Array:
    """1000 values in four shards of three chunks, the last of them not full."""
    group = zarr.create_group(folder / "store", zarr_format=3)
    group.create_array("values", data=values, chunks=(96,), shards=(288,), **options)
    return zarr.open_group(folder / "store", mode="r")["values"]


@pytest.mark.parametrize("options", SHARDED.values(), ids=SHARDED.keys())
@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.int64])
def test_every_slice_of_shards_is_the_one_that_zarr_gives(tmp_path: Path, options: dict[str, Any], kind: type) -> None:
    stored = write_shards(tmp_path, VALUES.astype(kind), **options)
    quick = quick_values(stored)
    assert quick is not stored
    for first, last in SPANS:
        assert quick[first:last].dtype == kind
        assert np.array_equal(quick[first:last], stored[first:last])


def test_shards_of_another_kind_are_left_to_zarr(tmp_path: Path) -> None:
    stored = write_shards(tmp_path, VALUES, serializer=BytesCodec(endian="big"))
    assert quick_values(stored) is stored
    memory = zarr.create_array({}, data=VALUES, chunks=(96,), shards=(288,))
    assert quick_values(memory) is memory


def test_chunks_that_no_shard_holds_are_those_that_zarr_gives(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "store", zarr_format=3)
    stored = group.create_array("values", shape=(1000,), dtype=np.float32, chunks=(96,), shards=(288,), fill_value=7)
    stored[300:310] = VALUES[300:310]
    read = quick_values(stored)[:]
    assert np.array_equal(read[300:310], VALUES[300:310])
    assert (read[:300] == 7).all()
    assert (read[310:] == 7).all()


def test_a_damaged_shard_is_refused_as_by_zarr(tmp_path: Path) -> None:
    stored = write_shards(tmp_path, VALUES, compressors=ZstdCodec(checksum=True))
    path = tmp_path / "store" / "values" / "c" / "1"
    content = bytearray(path.read_bytes())
    content[20:30] = b"\xff" * 10
    path.write_bytes(content)
    quick = quick_values(stored)
    assert np.array_equal(quick[0:288], VALUES[:288])
    with pytest.raises(RuntimeError, match="[Zz]std"):
        quick[280:300]
