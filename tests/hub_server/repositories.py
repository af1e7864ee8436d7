"""What a hub keeps: repositories with commits, branches, tags and pull requests, and who may read and write them."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Files that the hub stores outside git, by name; the client asks for each file which way it goes.
LARGE_FILES = ("*.safetensors", "*.bin", "*.parquet", "*.arrow", "*.h5ad", "*.pt")


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """The name that the client compares with: sha256 of a large file, git's blob hash of a regular one."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    oid: str
    files: Mapping[str, StoredFile]
    message: str
    parents: tuple[str, ...] = ()

    @property
    def history(self) -> tuple[str, ...]:
        """Hashes of this commit and all before it, newest first."""
        return (self.oid, *self.parents)


@dataclass
class Repository:
    """A model or data-set repository.

    ``granted`` are the users who may read the files of a gated one; its owner always may.
    """

    name: str
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    _counter: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.commit(
            {".gitattributes": StoredFile(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", large=False)},
            "initial commit",
        )

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, ``refs/pr/1`` or a hash stands for."""
        for reference in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if reference in self.references:
                return self.commits[self.references[reference]]
        return self.commits.get(revision)

    def commit(self, files: Mapping[str, StoredFile], message: str, *, reference: str = "refs/heads/main") -> Commit:
        """Put a state of all files on top of a branch or a pull request."""
        parent = self.commits.get(self.references.get(reference, ""))
        oid = hashlib.sha1(f"{self.name} {id(self)} {next(self._counter)}".encode()).hexdigest()
        commit = Commit(oid, dict(files), message, parent.history if parent else ())
        self.commits[oid] = commit
        self.references[reference] = oid
        return commit

    def open_pull_request(self, start: Commit) -> str:
        """A new ``refs/pr/<number>`` that starts at a commit."""
        number = 1 + sum(reference.startswith("refs/pr/") for reference in self.references)
        self.references[f"refs/pr/{number}"] = start.oid
        return f"refs/pr/{number}"

    def named(self, kind: str) -> dict[str, str]:
        """Branches (``heads``), tags (``tags``) or pull requests (``pr``), name to commit hash."""
        prefix = f"refs/{kind}/"
        return {name.removeprefix(prefix): oid for name, oid in self.references.items() if name.startswith(prefix)}

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """The files on the main branch."""
        return self.commits[self.references["refs/heads/main"]].files


class HubState:
    """All repositories of a hub, its store of large files, and its users.

    Parameters
    ----------
    users
        Token to user name.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self.users = dict(users)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def create(self, name: str, *, kind: str = "model", private: bool = False, gated: bool = False) -> Repository:
        """Create an empty repository; ``kind`` is ``model`` or ``dataset``."""
        self.repositories[kind, name] = repository = Repository(name, private=private, gated=gated)
        return repository

    def repository(self, name: str, *, kind: str = "model") -> Repository:
        """The repository of that name; KeyError if there is none."""
        return self.repositories[kind, name]


def is_large(path: str) -> bool:
    """Whether the hub stores the file outside git."""
    return any(fnmatch(path, pattern) for pattern in LARGE_FILES)
