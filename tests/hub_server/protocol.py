"""What a hub answers: the part of the Hugging Face hub's HTTP interface that its Python clients use.

A request names a repository by kind and name, and a revision; a refusal carries the ``X-Error-Code`` from which the
client makes its exception (``RepositoryNotFoundError``, ``GatedRepoError``, ``RevisionNotFoundError``,
``EntryNotFoundError``).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hub_server.messages import Refusal, Reply, Request, answer_json, ranged
from hub_server.repositories import Commit, HubState, Repository, StoredFile, is_large

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Target:
    """The repository that a request is about, and who asks."""

    repository: Repository
    kind: str
    user: str | None

    def at(self, revision: str) -> Commit:
        """The commit of a revision.

        Raises
        ------
        Refusal
            404 if there is no such revision.
        """
        commit = self.repository.resolve(revision)
        if commit is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def require_writer(self) -> None:
        """Refuse (401, 403) anyone but the owner."""
        if self.user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if self.user != self.repository.owner:
            raise Refusal(HTTPStatus.FORBIDDEN, "Forbidden: you do not have write access to this repository")

    def require_grant(self) -> None:
        """Refuse (401, 403) whoever was not granted the files of a gated repository."""
        if self.repository.gated and self.user not in {self.repository.owner, *self.repository.granted}:
            status = HTTPStatus.UNAUTHORIZED if self.user is None else HTTPStatus.FORBIDDEN
            raise Refusal(status, f"Access to model {self.repository.name} is restricted", "GatedRepo")


class HubProtocol:
    """Answers requests from a state.

    Parameters
    ----------
    state
        What the hub keeps.
    url
        Where the hub is reached; absolute links in answers start with it.
    storage_url
        Where large files are reached. Another host than the hub's, as in reality: the client reads what it must know of
        a large file from the redirect itself only where that leaves the hub.
    """

    def __init__(self, state: HubState, url: str, storage_url: str) -> None:
        self.state = state
        self.url = url
        self.storage_url = storage_url
        api = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
        plain = r"/(?:(?P<datasets>datasets)/)?(?P<name>[^/]+/[^/]+?)"
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("POST", r"/api/repos/create", self.create),
            ("DELETE", r"/api/repos/delete", self.delete),
            ("GET", rf"{api}", self.describe),
            ("GET", rf"{api}/revision/(?P<revision>[^/]+)", self.describe),
            ("GET", rf"{api}/refs", self.references),
            ("GET", rf"{api}/commits/(?P<revision>[^/]+)", self.commits),
            ("GET", rf"{api}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", self.tree),
            ("POST", rf"{api}/paths-info/(?P<revision>[^/]+)", self.paths_info),
            ("POST", rf"{api}/branch/(?P<branch>[^/]+)", self.create_branch),
            ("POST", rf"{api}/tag/(?P<revision>[^/]+)", self.create_tag),
            ("POST", rf"{api}/preupload/(?P<revision>[^/]+)", self.preupload),
            ("POST", rf"{api}/commit/(?P<revision>[^/]+)", self.commit),
            ("POST", rf"{plain}\.git/info/lfs/objects/batch", self.large_file_batch),
            ("GET", rf"{plain}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self.resolve),
            ("PUT", r"/large-files/(?P<oid>[0-9a-f]{64})", self.store_large_file),
            ("GET", r"/large-files/(?P<oid>[0-9a-f]{64})", self.fetch_large_file),
        ]
        self.routes = [(method, re.compile(pattern), action) for method, pattern, action in routes]

    def answer(self, request: Request) -> Reply:
        """The answer to a request; HEAD is answered as GET."""
        method = "GET" if request.method == "HEAD" else request.method
        for allowed, pattern, action in self.routes:
            if method == allowed and (match := pattern.fullmatch(request.path)):
                given = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                try:
                    with self.state.lock:
                        if "name" in given:
                            kind = given.pop("kind", "dataset" if given.pop("datasets", None) else "model")
                            return action(request, self.target(request, kind, given.pop("name")), **given)
                        return action(request, **given)
                except Refusal as refusal:
                    return refusal.reply
        return Refusal(HTTPStatus.NOT_FOUND, f"No such page: {request.method} {request.path}", "EntryNotFound").reply

    # Who asks, and for what

    def user(self, request: Request) -> str | None:
        """Name of the user that the token stands for; None without a token; 401 for an unknown one."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.state.users:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return self.state.users.get(token)

    def target(self, request: Request, kind: str, name: str) -> Target:
        """The repository asked for, if the user may see it; the hub does not tell private and missing ones apart."""
        user = self.user(request)
        repository = self.state.repositories.get((kind, name))
        if repository is None or (repository.private and user != repository.owner):
            status = HTTPStatus.UNAUTHORIZED if user is None else HTTPStatus.NOT_FOUND
            raise Refusal(status, "Repository not found", "RepoNotFound")
        return Target(repository, kind, user)

    # Accounts and repositories

    def whoami(self, request: Request) -> Reply:
        user = self.user(request)
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        return answer_json({"name": user, "type": "user", "orgs": []})

    def validate_yaml(self, request: Request) -> Reply:
        return answer_json({"errors": [], "warnings": []})

    def create(self, request: Request) -> Reply:
        user, wanted = self.user(request), request.json()
        name = f"{wanted.get('organization') or user}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if name.split("/")[0] != user:
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f"You don't have the rights to create a model under the namespace {name.split('/')[0]!r}",
            )
        described = {"url": f"{self.url}/{'datasets/' if kind == 'dataset' else ''}{name}", "id": name, "name": name}
        if (kind, name) in self.state.repositories:
            return answer_json(
                {"error": "You already created this model repo", **described}, status=HTTPStatus.CONFLICT
            )
        self.state.create(name, kind=kind, private=wanted.get("visibility") == "private")
        return answer_json(described)

    def delete(self, request: Request) -> Reply:
        wanted = request.json()
        kind, name = (
            wanted.get("type") or "model",
            f"{wanted.get('organization') or self.user(request)}/{wanted['name']}",
        )
        self.target(request, kind, name).require_writer()
        del self.state.repositories[kind, name]
        return Reply()

    def describe(self, request: Request, target: Target, revision: str = "main") -> Reply:
        repository, commit = target.repository, target.at(revision)
        return answer_json(
            {
                "id": repository.name,
                "sha": commit.oid,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "tags": [],
                "siblings": [{"rfilename": path} for path in commit.files],
            }
        )

    # Branches, tags and history

    def references(self, request: Request, target: Target) -> Reply:
        def listed(kind: str) -> list[dict[str, str]]:
            named = target.repository.named(kind)
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in named.items()]

        return answer_json(
            {"branches": listed("heads"), "tags": listed("tags"), "pullRequests": listed("pr"), "converts": []}
        )

    def commits(self, request: Request, target: Target, revision: str) -> Reply:
        history = [target.repository.commits[oid] for oid in target.at(revision).history]
        return answer_json(
            [
                {"id": one.oid, "title": one.message, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
                for one in history
            ]
        )

    def create_branch(self, request: Request, target: Target, branch: str) -> Reply:
        target.require_writer()
        if branch.startswith("refs/"):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"Invalid reference for a branch: {branch}")
        return self.add_reference(
            target, f"refs/heads/{branch}", target.at(request.json().get("startingPoint", "main"))
        )

    def create_tag(self, request: Request, target: Target, revision: str) -> Reply:
        target.require_writer()
        return self.add_reference(target, f"refs/tags/{request.json()['tag']}", target.at(revision))

    def add_reference(self, target: Target, reference: str, commit: Commit) -> Reply:
        if reference in target.repository.references:
            raise Refusal(HTTPStatus.CONFLICT, f"Reference already exists: {reference}")
        target.repository.references[reference] = commit.oid
        return answer_json({})

    # Writing

    def preupload(self, request: Request, target: Target, revision: str) -> Reply:
        if request.query.get("create_pr") != "1":
            target.require_writer()
        stored = target.at(revision).files
        return answer_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "shouldIgnore": False,
                        "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                        **({"oid": stored[file["path"]].oid} if file["path"] in stored else {}),
                    }
                    for file in request.json()["files"]
                ]
            }
        )

    def large_file_batch(self, request: Request, target: Target) -> Reply:
        """Say where each large file is to be put; one that is stored already needs no upload."""
        objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in request.json()["objects"]]
        for wanted in objects:
            if wanted["oid"] not in self.state.large_files:
                wanted["actions"] = {"upload": {"href": f"{self.storage_url}/large-files/{wanted['oid']}"}}
        return answer_json({"transfer": "basic", "objects": objects})

    def store_large_file(self, request: Request, oid: str) -> Reply:
        stored = StoredFile(request.body, large=True)
        if stored.oid != oid:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"The content has the sha256 {stored.oid}, not {oid}")
        self.state.large_files[oid] = request.body
        return Reply()

    def commit(self, request: Request, target: Target, revision: str) -> Reply:
        """Apply one commit (a header, then one operation a line) to a branch, a pull request, or a new pull request."""
        repository, parent = target.repository, target.at(revision)
        opens_pull_request = request.query.get("create_pr") == "1"
        if not opens_pull_request or target.user is None:
            target.require_writer()
        header, *operations = (json.loads(line) for line in request.body.splitlines())
        if header["value"].get("parentCommit", parent.oid) != parent.oid:
            raise Refusal(HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again.")
        files = self.apply(dict(parent.files), operations)
        reference = repository.open_pull_request(parent) if opens_pull_request else revision
        if not reference.startswith("refs/"):
            reference = f"refs/heads/{reference}"
        made = repository.commit(files, header["value"]["summary"], reference=reference)
        page = f"{self.url}/{'datasets/' if target.kind == 'dataset' else ''}{repository.name}"
        described = {"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}", "hookOutput": ""}
        if opens_pull_request:
            described["pullRequestUrl"] = f"{page}/discussions/{reference.rsplit('/', 1)[1]}"
        return answer_json(described)

    def apply(self, files: dict[str, StoredFile], operations: list[dict[str, Any]]) -> dict[str, StoredFile]:
        """Files after the operations of a commit."""
        for operation in operations:
            value, path = operation["value"], operation["value"]["path"]
            match operation["key"]:
                case "file":
                    files[path] = StoredFile(base64.b64decode(value["content"]), large=False)
                case "lfsFile":
                    if value["oid"] not in self.state.large_files:
                        raise Refusal(HTTPStatus.BAD_REQUEST, f"{path} was never uploaded")
                    files[path] = StoredFile(self.state.large_files[value["oid"]], large=True)
                case "deletedFile":
                    if files.pop(path, None) is None:
                        raise Refusal(HTTPStatus.NOT_FOUND, f"{path} does not exist", "EntryNotFound")
                case "deletedFolder":
                    files = {name: file for name, file in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
                case other:
                    raise Refusal(HTTPStatus.BAD_REQUEST, f"Unknown operation {other}")
        return files

    # Reading

    def tree(self, request: Request, target: Target, revision: str, folder: str = "") -> Reply:
        """List a folder: one level, or everything below with ``recursive=true``."""
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        recursive = request.query.get("recursive", "").lower() in {"true", "1"}
        listed: dict[str, dict[str, Any]] = {}
        for path, file in target.at(revision).files.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                below = prefix + "/".join(parts[:depth])
                listed[below] = {
                    "type": "directory",
                    "path": below,
                    "oid": StoredFile(below.encode(), large=False).oid,
                    "size": 0,
                }
            if recursive or len(parts) == 1:
                listed[path] = describe_file(path, file)
        if prefix and not listed:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        return answer_json(list(listed.values()))

    def paths_info(self, request: Request, target: Target, revision: str) -> Reply:
        files = target.at(revision).files
        return answer_json([describe_file(path, files[path]) for path in request.form("paths") if path in files])

    def resolve(self, request: Request, target: Target, revision: str, file: str) -> Reply:
        """A file, or for a large one where it is; the client reads hash and size from the headers of the redirect."""
        target.require_grant()
        commit = target.at(revision)
        if file not in commit.files:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{file} does not exist on {revision!r}", "EntryNotFound")
        stored = commit.files[file]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{stored.oid}"', "Accept-Ranges": "bytes"}
        if not stored.large:
            return ranged(request, stored.content, headers)
        linked = {"X-Linked-Etag": f'"{stored.oid}"', "X-Linked-Size": str(len(stored.content))}
        return Reply(
            status=HTTPStatus.FOUND,
            headers=headers | linked | {"Location": f"{self.storage_url}/large-files/{stored.oid}"},
        )

    def fetch_large_file(self, request: Request, oid: str) -> Reply:
        """Content of a large file; as on the hub, knowing the link is enough."""
        if oid not in self.state.large_files:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{oid} does not exist", "EntryNotFound")
        return ranged(request, self.state.large_files[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def describe_file(path: str, file: StoredFile) -> dict[str, Any]:
    """A file as listings show it."""
    size = len(file.content)
    described: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": file.oid}
    return described | ({"lfs": {"oid": file.oid, "size": size, "pointerSize": 134}} if file.large else {})
