"""What often goes wrong before a file is read: it is missing, empty, or something else under its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_WEB_PAGES = (b"<!doctype html", b"<html")


def refuse_failed_download(path: Path) -> None:
    """Raise CheckpointError if a file is missing, empty, a pointer of Git LFS, or a web page."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, or no file.")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty: fetch it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, not the file itself. Fetch the content with `git lfs pull`, or download "
            "the file alone."
        )
    if head.lstrip().lower().startswith(_WEB_PAGES):
        raise CheckpointError(
            f"{path} is a web page, not the file itself: the download led to a form or an error. Fetch it again."
        )
