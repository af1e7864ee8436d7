"""A column of obs over all cells of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CellAnnotation:
    """A column of obs over all cells of a corpus.

    Parameters
    ----------
    values
        One a cell, (n_cells,): numbers, or codes of ``names``.
    names
        What codes stand for; None for numbers.
    as_code
        Whether cells get the code, as labels do, or the name.
    """

    values: NDArray[Any]
    names: tuple[str, ...] | None = None
    as_code: bool = False

    def of(self, cells: NDArray[np.int64]) -> list[Any]:
        """Values of some cells, in plain types; a missing name is None."""
        values = self.values[cells].tolist()
        if self.names is None or self.as_code:
            return values
        return [self.names[code] if code >= 0 else None for code in values]
