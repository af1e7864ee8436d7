"""Dictionaries from pickle files, without running what is in them.

A pickle is a small program. Only the few constructors that a dictionary of names and numbers needs are known here;
everything else is refused before it is called, and so is whatever would take much more memory than the file has bytes.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from typing import IO, TYPE_CHECKING, Any, NoReturn

from scfm_hf.conversion.downloads import refuse_failed_download
from scfm_hf.conversion.numpy_pickles import Budget, Constructor, numpy_constructors
from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Largest pickle that is read, in bytes. The largest of the known originals (vectors of 28,000 genes) have 100 MB.
LARGEST_PICKLE = 2**30
#: Most operations of a pickle, and most of them that make a container: a byte of the file can become 200 of memory.
MOST_OPERATIONS, MOST_CONTAINERS = 20_000_000, 2_000_000

_MAKE_CONTAINERS = frozenset(
    "EMPTY_DICT DICT EMPTY_LIST LIST EMPTY_SET FROZENSET TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "REDUCE NEWOBJ NEWOBJ_EX OBJ INST".split()
)


def read_dictionary(path: Path) -> Any:
    """Read containers of strings and numbers from a pickle file.

    Parameters
    ----------
    path
        A pickle file.

    Returns
    -------
    What it holds: dictionaries, lists, tuples, sets, strings, numbers, and NumPy numbers and arrays of numbers or
    strings.

    Raises
    ------
    CheckpointError
        If it is too large, damaged, or asks for anything else.
    """
    refuse_failed_download(path)
    size = path.stat().st_size
    if size > LARGEST_PICKLE:
        raise CheckpointError(f"{path} has {size:,} bytes; a dictionary has at most {LARGEST_PICKLE:,}.")
    content = path.read_bytes()
    try:
        refuse_bombs(io.BytesIO(content), size, path)
        return _DictionaryUnpickler(content, path).load()
    except CheckpointError:
        raise
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a dictionary: {error}. It is truncated or damaged: fetch it again."
        ) from error


def refuse_bombs(file: IO[bytes], size: int, path: Path) -> None:
    """Go through the operations of a pickle without running them; none may ask for more memory than the file can fill.

    Parameters
    ----------
    file
        Where the pickle begins; afterwards just behind it.
    size
        Its length in bytes, or of the file that it is in.
    path
        For the message.

    Raises
    ------
    CheckpointError
        If it has too many operations, or one asks for too much.
    ValueError
        If it is truncated or damaged.
    """
    containers = 0
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
        containers += operation.name in _MAKE_CONTAINERS
        if number > MOST_OPERATIONS or containers > MOST_CONTAINERS:
            raise CheckpointError(
                f"{path} makes {containers:,} containers in {number:,} operations: too many, refused."
            )
        if operation.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > size:
            raise CheckpointError(f"{path} asks for a table of {argument} entries, more than it can fill: refused.")


def forbidden(path: Path, module: str, name: str) -> CheckpointError:
    """The error for a pickle that asks for something that is not allowed."""
    return CheckpointError(
        f"{path} asks for {module}.{name}, which holds neither names nor numbers: it may run code. Nothing of it was "
        "run. Get the file from its authors again; do not load it with pickle or torch.load."
    )


class _DictionaryUnpickler(pickle.Unpickler):
    """Unpickler that knows plain containers and NumPy numbers only."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path
        budget = Budget(len(content))
        plain: dict[str, Callable[..., Any]] = {
            "set": set,
            "frozenset": frozenset,
            "bytes": lambda: b"",
            "bytearray": _byte_array,
        }
        self._constructors: dict[tuple[str, str], Any] = {
            **numpy_constructors(budget),
            **{
                (module, name): Constructor(make, budget)
                for module in ("builtins", "__builtin__")
                for name, make in plain.items()
            },
            ("collections", "OrderedDict"): Constructor(collections.OrderedDict, budget),
            ("_codecs", "encode"): Constructor(_encode, budget),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._constructors:
            raise forbidden(self._path, module, name)
        return self._constructors[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise CheckpointError(f"{self._path} refers to objects outside itself ({pid!r}): it is no dictionary.")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocols before 3 write them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it holds text in the encoding {encoding!r}")
    return text.encode("latin1")


def _byte_array(content: bytes | str = b"", encoding: str = "latin1") -> bytearray:
    """Bytes of a content; never of a size, as the builtin makes them."""
    if isinstance(content, str):
        content = _encode(content, encoding)
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("it makes bytes without content")
    return bytearray(content)
