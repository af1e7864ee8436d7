"""Where a loaded model came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from scfm_hf.cards.manifest import FILE_NAME, Manifest

#: A repository in the cache of the hub client: models--owner--name/snapshots/<commit>.
_CACHED = re.compile(
    r"models--(?P<owner>[^/\\]+?)--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<revision>[0-9a-f]{40})[/\\]?$"
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Origin:
    """What ``from_pretrained`` was given.

    Parameters
    ----------
    model_id
        Name on the hub; None if the model was never on one, as far as is known.
    revision
        Commit hash, where known.
    folder
        The folder that it was loaded from, in the cache of the hub client or elsewhere.
    """

    model_id: str | None = None
    revision: str | None = None
    folder: Path | None = None

    def manifest(self, *, token: str | bool | None = None) -> Manifest | None:
        """The manifest beside the weights; None if there is none, or if it cannot be seen any more.

        Raises
        ------
        CheckpointError
            If there is one, but damaged.
        """
        if self.folder is not None and (self.folder / FILE_NAME).is_file():
            return Manifest.read(self.folder)
        if self.model_id is None:
            return None
        try:
            return Manifest.read(hf_hub_download(self.model_id, FILE_NAME, revision=self.revision, token=token))
        except (EntryNotFoundError, RepositoryNotFoundError):
            return None


def origin_of(model: Any) -> Origin:
    """Where a model was loaded from; all None for one that was made fresh."""
    path = str(getattr(model, "name_or_path", "") or "")
    if cached := _CACHED.search(path):
        return Origin(f"{cached['owner']}/{cached['name']}", cached["revision"], Path(path))
    folder = Path(path)
    if path and folder.is_dir():
        manifest = Manifest.read(folder) if (folder / FILE_NAME).is_file() else None
        return Origin(manifest.model_id if manifest else None, None, folder)
    if not _HUB_ID.fullmatch(path):
        return Origin()
    snapshot = _cached_snapshot(path, getattr(model.config, "_commit_hash", None))
    return Origin(path, snapshot.name if snapshot else None, snapshot)


def _cached_snapshot(model_id: str, commit: str | None) -> Path | None:
    """The snapshot in the cache of the hub client; None without one, or if it is not known which of several it is.

    transformers names the commit in the configuration up to version 5.20 or so, and nowhere afterwards.
    """
    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model_id, repo_type="model") / "snapshots"
    found = [path for path in snapshots.glob("*") if commit in (None, path.name)]
    return found[0] if len(found) == 1 else None
