"""CellProfile has no original: its checkpoints are made by this library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from scfm_hf.conversion import ConvertedCheckpoint, SourceFolder


def recognise(source: SourceFolder) -> bool:
    """No folder of another library holds a CellProfile."""
    del source
    return False


def convert(source: SourceFolder, **options: Any) -> ConvertedCheckpoint:
    """Refuse: there is nothing to convert.

    Raises
    ------
    CheckpointError
        Always.
    """
    del options
    raise CheckpointError(
        f"{source.home}: CellProfile checkpoints are made by this library and need no conversion. "
        "Load the folder with from_pretrained."
    )
