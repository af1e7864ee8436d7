"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence


def refuse_taken(target: str | os.PathLike[str], *, replaceable: Sequence[str] = ()) -> None:
    """Raise FileExistsError if something other than an empty folder is at ``target``.

    Parameters
    ----------
    target
        Where something is to be written.
    replaceable
        Names of files: a folder that holds one of them is an earlier result, and may be there.
    """
    target = Path(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not any((target / name).is_file() for name in replaceable):
        raise FileExistsError(f"{target} exists and is not empty. Remove it, or choose another place.")


@contextmanager
def whole_folder(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Write a folder beside its place, and move it there once all of it is written.

    Parameters
    ----------
    target
        Where the folder is to appear.
    replace
        Put it in the place of a folder that is there already; otherwise that is refused before anything is written.

    Yields
    ------
    An empty folder to write into. It is gone if the block raises, and what was at ``target`` is then still there.

    Raises
    ------
    FileExistsError
        If there is something at ``target`` that may not be replaced: anything with ``replace=False``, a file always.
    """
    target = Path(target).absolute()
    if not (replace and target.is_dir()):
        refuse_taken(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new, old = staging / "new", staging / "old"
    new.mkdir()
    try:
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(staging)


@contextmanager
def whole_file(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Write a file beside its place, and move it there once all of it is written.

    Parameters
    ----------
    target
        Where the file is to appear.
    replace
        Put it in the place of a file that is there already; otherwise that is refused before anything is written.

    Yields
    ------
    The path to write to, of the same name. It is gone if the block raises, and what was at ``target`` is then still
    there.

    Raises
    ------
    FileExistsError
        If there is something at ``target`` that may not be replaced: anything with ``replace=False``, a folder always.
    """
    target = Path(target).absolute()
    if target.is_dir() or (target.exists() and not replace):
        raise FileExistsError(f"{target} exists. Remove it, or choose another place.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging / target.name
        (staging / target.name).replace(target)
    finally:
        shutil.rmtree(staging)
