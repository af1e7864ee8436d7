"""NumPy numbers and arrays out of pickles, made by constructors that check what they are given.

NumPy's own trust their arguments: a pickle that names nothing but ``numpy.dtype`` and ``numpy.ndarray`` can make NumPy
read outside the file, take bytes for addresses of objects, or fill the memory. An allow-list of names is not enough.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

#: Booleans, whole numbers, floating-point and complex numbers, strings, and (with their values checked) objects.
_PLAIN_TYPE = re.compile(r"[<>=|]?(?:[?biufc]\d{0,2}|[SU]\d{0,6}|O8?)")
_CONTAINERS = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
_PLAIN_VALUES = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Budget:
    """Bytes that constructors may copy: a pickle that asks for the same long argument again and again runs out of it.

    Parameters
    ----------
    size
        Length of the pickle. Constructors of an honest one copy each of its bytes a few times at most.
    """

    def __init__(self, size: int) -> None:
        self.left = 4 * size + 4096

    def spend(self, amount: int) -> None:
        """Take from what is left.

        Raises
        ------
        pickle.UnpicklingError
            If there is less.
        """
        self.left -= amount
        if self.left < 0:
            raise pickle.UnpicklingError("it would unpack to many times its size")


def size_of(arguments: tuple[Any, ...]) -> int:
    """How much a constructor copies of its arguments: entries of containers, letters of strings."""
    return sum(len(argument) for argument in arguments if isinstance(argument, _CONTAINERS))


class Constructor:
    """A function as unpicklers may call it; unlike a bare function, a pickle cannot set attributes of it."""

    __slots__ = ("_budget", "_call")

    def __init__(self, call: Callable[..., Any], budget: Budget) -> None:
        self._call, self._budget = call, budget

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, and count the size of its arguments."""
        self._budget.spend(size_of(arguments))
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        """Refuse to be changed."""
        raise pickle.UnpicklingError("it would change a function")


class NumberType:
    """Stands for ``numpy.dtype``: the type of plain numbers or strings."""

    __slots__ = ("_name", "_order")

    def __init__(self, name: Any, *_: Any) -> None:
        if not (isinstance(name, str) and _PLAIN_TYPE.fullmatch(name)):
            raise pickle.UnpicklingError(f"it holds values of the type {name!r}")
        self._name, self._order = name.lstrip("<>=|"), ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order; everything else follows from the name."""
        if state[1] not in ("<", ">", "=", "|") or state[2] is not None or state[3] is not None:
            raise pickle.UnpicklingError("it holds values of a composed type")
        self._order = state[1].replace("|", "")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type itself."""
        return np.dtype(self._order + self._name)


class PickledArray(np.ndarray[Any, Any]):
    """An array whose content came from a pickle and was checked first."""

    _budget: Budget

    def __new__(cls, *_: Any) -> Self:
        """Refuse: arrays come empty from :func:`numpy_constructors` and get their content as a state."""
        raise pickle.UnpicklingError("it makes an array without content")

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and content, if they fit each other."""
        _, shape, kind, fortran_order, content = state
        _check_content(content, shape, kind)
        self._budget.spend(len(content))
        super().__setstate__((1, shape, kind.dtype, bool(fortran_order), content))  # type: ignore[arg-type]


def numpy_constructors(budget: Budget) -> dict[tuple[str, str], Any]:
    """What stands for NumPy's constructors, by module and name; NumPy 1 and 2 name the modules differently.

    Parameters
    ----------
    budget
        Budget of the pickle that is read.
    """

    def empty(*_: Any) -> PickledArray:
        array: PickledArray = np.ndarray.__new__(PickledArray, (0,), "b")
        array._budget = budget
        return array

    constructors: dict[tuple[str, str], Any] = {("numpy", "dtype"): NumberType, ("numpy", "ndarray"): PickledArray}
    for core in ("numpy.core", "numpy._core"):
        constructors[f"{core}.multiarray", "scalar"] = Constructor(_number, budget)
        constructors[f"{core}.multiarray", "_reconstruct"] = Constructor(empty, budget)
        constructors[f"{core}.numeric", "_frombuffer"] = Constructor(_from_buffer, budget)
    return constructors


def _number(kind: Any, content: Any = None) -> Any:
    """A NumPy number or string of its bytes."""
    _check_content([content] if isinstance(content, _PLAIN_VALUES) and _is_object(kind) else content, (1,), kind)
    return content if _is_object(kind) else np.ndarray((), kind.dtype, content)[()]


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, *_: Any) -> np.ndarray[Any, Any]:
    """An array of its bytes, as protocol 5 writes it."""
    _check_content(bytes(content) if isinstance(content, bytearray) else content, shape, kind)
    return np.ndarray(shape, kind.dtype, content, order="F" if order == "F" else "C")


def _is_object(kind: Any) -> bool:
    return isinstance(kind, NumberType) and kind.dtype.hasobject


def _check_content(content: Any, shape: Any, kind: Any) -> None:
    """Raise UnpicklingError unless the content is exactly what an array of this shape and type holds."""
    if not isinstance(kind, NumberType) or not isinstance(shape, tuple) or len(shape) > 32:
        raise pickle.UnpicklingError("an array in it has no plain type or shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"an array in it has the shape {shape!r}")
    if kind.dtype.hasobject:
        if type(content) is not list or not all(isinstance(value, _PLAIN_VALUES) for value in content):
            raise pickle.UnpicklingError("an array in it holds objects other than names and numbers")
        due = math.prod(shape)
    else:
        if type(content) is not bytes:
            raise pickle.UnpicklingError("an array in it has no bytes as content")
        due = math.prod(shape) * kind.dtype.itemsize
    if len(content) != due:
        raise pickle.UnpicklingError(f"an array in it needs a content of {due:,} and has one of {len(content):,}")
