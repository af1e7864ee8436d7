"""Opens shards that are all there and unchanged, and puts them on a hub."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from scfm_hf.data.shard_manifest import MANIFEST, ShardManifest
from scfm_hf.data.shard_plan import tokenizer_digest
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    import datasets

    from scfm_hf.data.shard_manifest import ShardRecord
    from scfm_hf.tokenization import CellTokenizer

#: How closely shards are looked at: the content of each, its size, or whether it is there.
Check = Literal["content", "size"]

_READ = 1 << 22


@overload
def open_shards(
    place: str | os.PathLike[str],
    *,
    streaming: Literal[False] = ...,
    tokenizer: CellTokenizer | None = ...,
    check: Check = ...,
    revision: str | None = ...,
) -> datasets.Dataset: ...


@overload
def open_shards(
    place: str | os.PathLike[str],
    *,
    streaming: Literal[True],
    tokenizer: CellTokenizer | None = ...,
    check: Check = ...,
    revision: str | None = ...,
) -> datasets.IterableDataset: ...


def open_shards(
    place: str | os.PathLike[str],
    *,
    streaming: bool = False,
    tokenizer: CellTokenizer | None = None,
    check: Check = "content",
    revision: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Open the shards of a tokenised corpus.

    Parameters
    ----------
    place
        Folder, URL of one (any protocol of fsspec), or name of a data set on the hub, ``owner/name``.
    streaming
        Read shards as they are needed; else ``datasets`` makes an Arrow file of all of them first, once.
    tokenizer
        Refuse shards of another one.
    check
        ``content`` compares the sha256 of every shard, for which local files are read once; on the hub, which knows it,
        nothing is. ``size`` compares sizes.
    revision
        Branch, tag or commit on the hub. The commit that it means now is the one that is read.

    Returns
    -------
    A row a cell, with the types that it was written with.

    Raises
    ------
    CorpusError
        If the manifest or a shard is missing, a shard was changed, or the tokenizer is another.
    """
    from datasets import load_dataset

    root = _address(place, revision)
    manifest = read_manifest(root)
    if tokenizer is not None and (given := tokenizer_digest(tokenizer)) != manifest.tokenizer:
        raise CorpusError(
            f"{place} was made with another tokenizer (digest {manifest.tokenizer[:12]}, yours {given[:12]}): its "
            "vocabulary, scheme, options or gene statistics differ. Take the one in the folder tokenizer of the "
            "shards, or tokenise the corpus again."
        )
    check_shards(root, manifest, check=check)
    shards = [f"{root}/{shard.file}" for shard in manifest.shards]
    return load_dataset("parquet", data_files={"train": shards}, split="train", streaming=streaming)


def read_manifest(place: str | os.PathLike[str], *, revision: str | None = None) -> ShardManifest:
    """What a folder of shards says that it holds; see :func:`open_shards` for the place.

    Raises
    ------
    CorpusError
        If there is no manifest, or it is damaged.
    """
    import fsspec

    root = _address(place, revision)
    system, path = fsspec.core.url_to_fs(root)
    try:
        text = system.cat_file(f"{path}/{MANIFEST}").decode("utf-8")
    except FileNotFoundError as error:
        raise CorpusError(
            f"{place} has no {MANIFEST}: it is no folder of shards, or not all of it was written or fetched."
        ) from error
    return ShardManifest.from_json(text, place=str(place))


def check_shards(place: str | os.PathLike[str], manifest: ShardManifest, *, check: Check = "content") -> None:
    """Compare shards with their manifest.

    Raises
    ------
    CorpusError
        If some are missing or were changed; all are named by number, the first ones by name.
    """
    import fsspec

    if check not in ("content", "size"):
        raise ValueError(f'check={check!r} is neither "content" nor "size".')
    system, path = fsspec.core.url_to_fs(os.fspath(place))
    found = {"missing": [], "changed": []}  # type: dict[str, list[str]]
    for shard in manifest.shards:
        state = _state(system, f"{path}/{shard.file}", shard, check)
        if state:
            found[state].append(shard.file)
    if any(found.values()):
        shown = "; ".join(
            f"{len(names)} {state}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for state, names in found.items()
            if names
        )
        raise CorpusError(
            f"Of the {len(manifest.shards)} shards of {place}, {shown}. Fetch the data set again, or tokenise the "
            "corpus again."
        )


def push_shards(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Put a folder of shards on a hub as a data set, in one commit, so that all arrives or nothing does.

    Shards that the hub has already, as after a push that was stopped, are not sent again.

    Parameters
    ----------
    folder
        The shards. They are checked first.
    repo_id
        Name on the hub, ``owner/name``; made if it does not exist.
    private
        Whether a new one is private.
    revision
        Branch, made if it does not exist.
    create_pr
        Open a pull request instead.
    token
        Of the account.
    commit_message
        By default it says what is pushed.

    Returns
    -------
    Address of the commit, or of the pull request.

    Raises
    ------
    CorpusError
        If shards are missing or were changed.
    huggingface_hub.errors.HfHubHTTPError
        What the hub client raises.
    """
    from huggingface_hub import HfApi

    manifest = read_manifest(folder)
    check_shards(folder, manifest)
    api = HfApi(token=token, library_name="scfm_hf")
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr and not revision.startswith("refs/"):
        api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
    done = api.upload_folder(
        repo_id=repo_id,
        folder_path=Path(folder),
        repo_type="dataset",
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or f"Upload {manifest.n_rows:,} tokenised cells",
        delete_patterns=["data/*", "tokenizer/*"],
    )
    return str(done.pr_url or done.commit_url)


def _address(place: str | os.PathLike[str], revision: str | None) -> str:
    """Path or URL of the folder; of a data set on the hub the commit that a revision means now."""
    name = os.fspath(place)
    if "://" in name or Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        if revision is not None:
            raise ValueError(f"{name} is no data set on the hub: it has no revisions.")
        return name.rstrip("/")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        commit = HfApi(library_name="scfm_hf").dataset_info(name, revision=revision).sha
    except RepositoryNotFoundError as error:
        raise CorpusError(f"{name} is neither a folder here nor a data set on the hub that you may read.") from error
    return f"hf://datasets/{name}@{commit}"


def _state(system: Any, path: str, shard: ShardRecord, check: Check) -> str | None:
    try:
        known = system.info(path)
    except FileNotFoundError:
        return "missing"
    if known["size"] != shard.bytes:
        return "changed"
    if check == "size":
        return None
    digest = (known.get("lfs") or {}).get("sha256") or _sha256(system, path)
    return None if digest == shard.sha256 else "changed"


def _sha256(system: Any, path: str) -> str:
    digest = sha256()
    with system.open(path, "rb") as file:
        while part := file.read(_READ):
            digest.update(part)
    return digest.hexdigest()
