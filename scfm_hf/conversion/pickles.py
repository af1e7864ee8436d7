"""Dictionaries from pickle files, without running what is in them.

A pickle is a small program. Only the few constructors that a dictionary of names and numbers needs are allowed; everything else is
refused before it is called.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from scfm_hf.errors import CheckpointError

#: Largest pickle that is read, in bytes; the largest dictionary of the known originals has 4 MB.
LARGEST_PICKLE = 256 * 1024 * 1024
#: Most operations of a pickle; each leaves at most a small object.
MOST_OPERATIONS = 50_000_000

_scalar, _reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    # NumPy 1 and 2 name the module of their scalars and arrays differently.
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
}


class _DictionaryUnpickler(pickle.Unpickler):
    """Unpickler that knows plain containers and NumPy numbers only."""

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CheckpointError(
                f"{self._name} asks for {module}.{name}, which a dictionary of names and numbers does not need: it may run code. "
                "Nothing of it was run. Get the file from its authors again; do not load it with pickle."
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError(f"{self._name} refers to objects outside the file ({pid!r}); a dictionary does not.")


def read_dictionary(path: Path) -> Any:
    """Read containers of strings and numbers from a pickle file.

    Parameters
    ----------
    path
        A pickle file.

    Returns
    -------
    What it holds: dictionaries, lists, tuples, sets, strings, numbers, NumPy numbers and arrays of numbers.

    Raises
    ------
    CheckpointError
        If it is too large, damaged, or asks for anything else.
    """
    size = path.stat().st_size
    if size > LARGEST_PICKLE:
        raise CheckpointError(f"{path} has {size:,} bytes; a dictionary has at most {LARGEST_PICKLE:,}.")
    content = path.read_bytes()
    try:
        _refuse_bombs(content, path)
        value = _DictionaryUnpickler(io.BytesIO(content), str(path)).load()
    except CheckpointError:
        raise
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise CheckpointError(f"{path} is no whole pickle file ({error}). It is truncated or damaged: fetch it again.") from error
    _refuse_objects(value, path)
    return value


def _refuse_bombs(content: bytes, path: Path) -> None:
    """Read the operations without running them: none may ask for more memory than the file has bytes."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number > MOST_OPERATIONS:
            raise CheckpointError(f"{path} has more than {MOST_OPERATIONS:,} operations, too many for a dictionary.")
        if operation.name in ("LONG_BINPUT", "BINPUT", "PUT") and isinstance(argument, int) and argument > len(content):
            raise CheckpointError(f"{path} asks for a table of {argument:,} entries, more than the file can fill.")


def _refuse_objects(value: Any, path: Path) -> None:
    """No arrays of objects: they could hold anything."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, np.ndarray) and found.dtype.hasobject:
            raise CheckpointError(f"{path} holds an array of objects; only numbers are read.")
        if isinstance(found, dict):
            stack.extend(item for item in found.values() if isinstance(item, (dict, list, tuple, np.ndarray)))
        elif isinstance(found, (list, tuple)):
            stack.extend(item for item in found if isinstance(item, (dict, list, tuple, np.ndarray)))
