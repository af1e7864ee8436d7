"""Dictionaries are read from pickles of every protocol; whatever is not plain data is refused and never run."""

from __future__ import annotations

import collections
import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conversion.originals import RunsACommand, cut_off, flip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scfm_hf.conversion import pickles
from scfm_hf.conversion.pickles import read_dictionary
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {
    "text": "GATA1",
    "bytes": b"raw",
    "no_bytes": b"",
    "changeable_bytes": bytearray(b"zz"),
    "numbers": (1, -2.5, 2**70, True, None),
    "list": [[1], {"a": [2]}],
    "set": {1, 2},
    "frozen_set": frozenset({"x"}),
    "ordered": collections.OrderedDict(b=1, a=2),
    "median": np.float64(1.25),
    "token": np.int16(7),
    "flag": np.bool_(True),
    "name": np.str_("ENSG1"),
}
ARRAYS = {
    "vector": np.arange(5, dtype=np.float32),
    "big_endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "names": np.array(["a", "bcd"]),
    "objects": np.array(["B cell", "NK"], dtype=object),
}

scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]


class Calls:
    """Pickles as a call of a function, and a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.arguments, self.state)[: 2 if self.state is None else 3]


def pickled(folder: Path, content: Any, protocol: int | None = None) -> Path:
    path = folder / "dictionary.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_as_it_was(tmp_path: Path, protocol: int) -> None:
    read = read_dictionary(pickled(tmp_path, PLAIN, protocol))
    assert read == PLAIN
    assert {name: type(value) for name, value in read.items()} == {name: type(value) for name, value in PLAIN.items()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_as_they_were(tmp_path: Path, protocol: int, name: str) -> None:
    read = read_dictionary(pickled(tmp_path, ARRAYS[name], protocol))
    np.testing.assert_array_equal(read, ARRAYS[name])
    assert read.dtype.newbyteorder("=") == ARRAYS[name].dtype.newbyteorder("=")


def test_numbers_written_by_numpy_1_and_numpy_2_are_read(tmp_path: Path) -> None:
    new = pickle.dumps({"median": np.float64(1.25)}, protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    assert read_dictionary(pickled(tmp_path, old)) == read_dictionary(pickled(tmp_path, new)) == {"median": 1.25}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt)\.system"):
        read_dictionary(pickled(tmp_path, {"<pad>": 0, "gene": [RunsACommand(trace)]}, protocol))
    assert not trace.exists()


@pytest.mark.parametrize(
    "function",
    [eval, exec, getattr, open, __import__, np.load, np.fromfile, io.open_code, collections.Counter, object],
    ids=lambda function: function.__name__,
)
def test_no_other_function_is_known(tmp_path: Path, function: Any) -> None:
    with pytest.raises(CheckpointError, match="Nothing of it was run"):
        read_dictionary(pickled(tmp_path, Calls(function, "1")))


# Each uses allowed names alone, and crashes, or fills the memory of, a reader that trusts NumPy's constructors.
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            Calls(reconstruct, np.ndarray, (0,), b"b", state=(1, (10**6,), np.dtype("O"), False, [])),
            id="fewer objects than the shape says",
        ),
        pytest.param(
            Calls(
                reconstruct,
                np.ndarray,
                (0,),
                b"b",
                state=(
                    1,
                    (1,),
                    Calls(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0)),
                    False,
                    b"A" * 8,
                ),
            ),
            id="bytes as addresses of objects",
        ),
        pytest.param(
            Calls(reconstruct, np.ndarray, (0,), b"b", state=(1, (10**12,), np.dtype("f8"), False, b"12345678")),
            id="fewer bytes than the shape says",
        ),
        pytest.param(Calls(scalar, np.dtype("V1000000000")), id="a number of a gigabyte"),
        pytest.param(Calls(scalar, np.dtype("f8"), b"123"), id="a number of three bytes"),
        pytest.param(Calls(np.ndarray, (10**10,), "f8"), id="an array of eighty gigabytes"),
        pytest.param(Calls(bytearray, 10**11), id="a hundred gigabytes of zeros"),
        pytest.param(np.array([(1, 2.0)], dtype="i4,f8"), id="records"),
        pytest.param(np.array([{"nested": 1}], dtype=object), id="an array of objects"),
        pytest.param(np.array("2024-01-01", dtype="M8[D]"), id="dates"),
        pytest.param(b"\x80\x02]r\xff\xff\xff\x7f.", id="a table of two thousand million entries"),
        pytest.param(b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b"abc.", id="a terabyte announced"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.", id="a function that is changed"),
        pytest.param(b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.", id="a class that is changed"),
    ],
)
def test_a_pickle_of_allowed_names_can_do_no_harm(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"dictionary\.pkl"):
        read_dictionary(pickled(tmp_path, content))


def test_a_long_argument_is_not_copied_again_and_again(tmp_path: Path) -> None:
    # The list is written once, and made into a set a thousand times.
    long_list = b"(" + b"".join(b"M" + number.to_bytes(2, "little") for number in range(20_000)) + b"l"
    bomb = b"\x80\x02(" + long_list + b"q\x000" + b"cbuiltins\nset\nh\x00\x85R" * 1_000 + b"l."
    with pytest.raises(CheckpointError, match="many times its size"):
        read_dictionary(pickled(tmp_path, bomb))


@pytest.mark.parametrize("limit", ["MOST_CONTAINERS", "MOST_OPERATIONS"])
def test_the_number_of_containers_and_operations_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    path = pickled(tmp_path, b"\x80\x04" + b"]0" * 2_000 + b"N.")
    assert read_dictionary(path) is None
    monkeypatch.setattr(pickles, limit, 1_000)
    with pytest.raises(CheckpointError, match="too many"):
        read_dictionary(path)


def test_lists_that_hold_each_other_are_read_at_once(tmp_path: Path) -> None:
    nested: list[Any] = ["x"]
    for _ in range(200):
        nested = [nested, nested]
    assert len(read_dictionary(pickled(tmp_path, nested))) == 2


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = pickled(tmp_path, PLAIN)
    cut_off(path)
    with pytest.raises(CheckpointError, match=r"dictionary\.pkl cannot be read.*fetch it again"):
        read_dictionary(path)


def test_a_file_that_is_larger_than_any_dictionary_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "dictionary.pkl"
    with path.open("wb") as file:
        file.write(b"\x80")
        file.truncate(2**31)
    with pytest.raises(CheckpointError, match="2,147,483,648 bytes"):
        read_dictionary(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"", "empty"),
    ],
)
def test_what_a_failed_download_leaves_is_recognised(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(CheckpointError, match=what):
        read_dictionary(pickled(tmp_path, content))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_gives_data_or_an_error_of_ours(tmp_path: Path, data: st.DataObject) -> None:
    path = pickled(tmp_path, PLAIN | ARRAYS)
    flip(path, data.draw(st.integers(0, path.stat().st_size * 8 - 1)))
    try:
        read_dictionary(path)
    except CheckpointError as error:
        assert "dictionary.pkl" in str(error)
