"""Fetching a repository of a hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download

from scfm_hf.folders import refuse_taken, whole_folder
from scfm_hf.hub.errors import explain_hub_errors

if TYPE_CHECKING:
    import os


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    to: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch all files of a model or an adapter from a hub.

    What was fetched before is not fetched again, and an interrupted pull goes on where it stopped.

    Parameters
    ----------
    repo_id
        Name on the hub, ``owner/name``. The hub is the one that ``HF_ENDPOINT`` names.
    revision
        Branch, tag or commit hash; the main branch by default.
    token
        Token of the account, or False for none; the one of ``hf auth login`` or ``HF_TOKEN`` by default.
    local_files_only
        Take it from the cache, without asking the hub.
    to
        Folder to put a copy into, which appears once it is complete. By default the files stay in the client's cache.

    Returns
    -------
    The folder, ready for ``from_pretrained``.

    Raises
    ------
    FileExistsError
        If the folder ``to`` exists already and is not empty.
    huggingface_hub.errors.HfHubHTTPError, LocalEntryNotFoundError
        What the hub client raises (unknown or private repository, gated, unknown revision, offline), with a line on
        what to do.
    """
    if to is not None:
        refuse_taken(to)
    with explain_hub_errors(repo_id, revision=revision):
        fetched = snapshot_download(repo_id, revision=revision, token=token, local_files_only=local_files_only)
    if to is None:
        return Path(fetched)
    with whole_folder(to) as folder:
        shutil.copytree(fetched, folder, dirs_exist_ok=True)
    return Path(to)
