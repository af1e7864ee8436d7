"""A golden folder while its arrays are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from parity.golden import Golden
    from parity.rules import RuleTable


class Variant:
    """One golden folder while it is compared; keeps what its arrays share.

    Parameters
    ----------
    golden, table
        The folder, and the family's rule table.
    convert
        Gives the folder of the converted model for a key of the weights.
    """

    def __init__(self, golden: Golden, table: RuleTable, convert: Callable[[str | None], Path]) -> None:
        self.golden, self.table, self.convert = golden, table, convert
        self._kept: dict[Any, Any] = {}

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once; a failure is kept too."""
        if key not in self._kept:
            try:
                self._kept[key] = make(), None
            except Exception as error:  # noqa: BLE001 - raised again for each array that needs it
                self._kept[key] = None, error
        made, error = self._kept[key]
        if error is not None:
            raise error
        return made


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Parameters
    ----------
    outputs
        Fields of the model's output.
    gradients
        Gradients by parameter name; those of parameters that took no part are zeros.
    state
        Tensors of the model afterwards, running statistics included.
    """

    outputs: Mapping[str, Any]
    gradients: Mapping[str, NDArray[Any]]
    state: Mapping[str, NDArray[Any]]
