"""The hub on loopback behaves, towards the real clients, as the Hugging Face hub does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import HubServer, Reply, Request, StoredFile
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.hub

NOTHING = HfApi(token=False)
GUEST = HfApi(token="hf_guest")
OWNER = HfApi(token="hf_owner")


@pytest.fixture
def repository(hub: HubServer, repo_id: str) -> str:
    """A repository with a regular and a large file."""
    OWNER.create_repo(repo_id)
    OWNER.create_commit(
        repo_id,
        [
            CommitOperationAdd("config.json", b"{}"),
            CommitOperationAdd("weights/model.safetensors", b"0123456789" * 100),
        ],
        commit_message="Add files",
    )
    return repo_id


def test_files_come_back_as_they_were_sent(repository: str) -> None:
    folder = Path(snapshot_download(repository))
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "weights/model.safetensors").read_bytes() == b"0123456789" * 100


def test_only_changed_files_make_a_commit(repository: str, hub: HubServer) -> None:
    before = OWNER.model_info(repository).sha
    OWNER.create_commit(repository, [CommitOperationAdd("config.json", b"{}")], commit_message="The same again")
    assert OWNER.model_info(repository).sha == before


def test_files_and_folders_can_be_deleted(repository: str) -> None:
    OWNER.create_commit(
        repository, [CommitOperationDelete("weights/"), CommitOperationDelete("config.json")], commit_message="Clear"
    )
    assert OWNER.list_repo_files(repository) == [".gitattributes"]


def test_tree_lists_one_level_or_all(repository: str) -> None:
    assert {entry.path for entry in OWNER.list_repo_tree(repository)} == {".gitattributes", "config.json", "weights"}
    below = {entry.path for entry in OWNER.list_repo_tree(repository, recursive=True)}
    assert below == {".gitattributes", "config.json", "weights", "weights/model.safetensors"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(OWNER.list_repo_tree(repository, "nowhere"))


def test_branches_tags_and_pull_requests_keep_their_own_files(repository: str) -> None:
    OWNER.create_tag(repository, tag="v1")
    OWNER.create_branch(repository, branch="trial")

    def change() -> list[CommitOperationAdd]:
        return [CommitOperationAdd("config.json", b'{"changed": 1}')]

    OWNER.create_commit(repository, change(), commit_message="Change", revision="trial")
    proposal = GUEST.create_commit(repository, change(), commit_message="Propose", create_pr=True)

    def config(revision: str) -> bytes:
        return Path(hf_hub_download(repository, "config.json", revision=revision)).read_bytes()

    assert proposal.pr_num == 1
    assert config("main") == config("v1") == b"{}"
    assert config("trial") == config("refs/pr/1") == b'{"changed": 1}'
    references = OWNER.list_repo_refs(repository, include_pull_requests=True)
    assert [branch.name for branch in references.branches] == ["main", "trial"]
    assert [tag.name for tag in references.tags] == ["v1"]
    with pytest.raises(HfHubHTTPError) as conflict:
        OWNER.create_branch(repository, branch="trial")
    assert conflict.value.response.status_code == 409
    with pytest.raises(BadRequestError):
        OWNER.create_branch(repository, branch="refs/pr/7")


def test_commit_on_an_old_parent_is_refused(repository: str) -> None:
    parent = OWNER.model_info(repository).sha
    OWNER.create_commit(repository, [CommitOperationAdd("a.txt", b"a")], commit_message="First", parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as refused:
        OWNER.create_commit(
            repository, [CommitOperationAdd("b.txt", b"b")], commit_message="Second", parent_commit=parent
        )
    assert refused.value.response.status_code == 412
    assert [commit.title for commit in OWNER.list_repo_commits(repository)] == ["First", "Add files", "initial commit"]


def test_part_of_a_file_can_be_read(repository: str, hub: HubServer) -> None:
    with HfFileSystem(token="hf_owner", skip_instance_cache=True).open(
        f"{repository}/weights/model.safetensors", block_size=16
    ) as file:
        file.seek(203)
        assert file.read(4) == b"3456"


def test_broken_download_goes_on_where_it_stopped(
    repository: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    content = b"0123456789" * 100
    asked: list[str | None] = []

    def cut_once(request: Request) -> Reply | None:
        if request.method != "GET" or not request.path.startswith("/large-files/"):
            return None
        asked.append(request.headers.get("range"))
        return Reply(content, cut_after=400) if len(asked) == 1 else None

    hub.intercept = cut_once
    assert Path(hf_hub_download(repository, "weights/model.safetensors")).read_bytes() == content
    assert asked == [None, "bytes=400-"]


def test_unknown_things_are_not_found(repository: str) -> None:
    with pytest.raises(RepositoryNotFoundError) as error:
        OWNER.model_info("owner/unknown")
    assert error.value.response.status_code == 404
    with pytest.raises(RepositoryNotFoundError) as error:
        NOTHING.model_info("owner/unknown")
    assert error.value.response.status_code == 401
    with pytest.raises(RevisionNotFoundError):
        OWNER.model_info(repository, revision="unknown")
    with pytest.raises(RemoteEntryNotFoundError):
        OWNER.hf_hub_download(repository, "unknown.json")


def test_private_repository_is_hidden_from_others(hub: HubServer, repo_id: str) -> None:
    OWNER.create_repo(repo_id, private=True)
    assert OWNER.model_info(repo_id).private
    for api, status in ((NOTHING, 401), (GUEST, 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            api.model_info(repo_id)
        assert error.value.response.status_code == status


def test_gated_repository_shows_its_list_but_not_its_files(repository: str, hub: HubServer) -> None:
    gated = hub.state.repository(repository)
    gated.gated = True
    assert GUEST.model_info(repository).gated == "manual"
    for api, status in ((NOTHING, 401), (GUEST, 403)):
        with pytest.raises(GatedRepoError) as error:
            api.hf_hub_download(repository, "config.json")
        assert error.value.response.status_code == status
    gated.granted.add("guest")
    GUEST.hf_hub_download(repository, "config.json")


def test_only_the_owner_writes(repository: str) -> None:
    change = [CommitOperationAdd("config.json", b"[]")]
    with pytest.raises(HfHubHTTPError) as error:
        GUEST.create_commit(repository, change, commit_message="Change")
    assert error.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(token="hf_wrong").create_repo("owner/other")
    assert error.value.response.status_code == 401


def test_data_sets_are_kept_apart_from_models(repository: str, hub: HubServer) -> None:
    OWNER.create_repo(repository, repo_type="dataset")
    OWNER.upload_file(path_or_fileobj=b"gene\n", path_in_repo="genes.csv", repo_id=repository, repo_type="dataset")
    assert hub.state.repository(repository, kind="dataset").files["genes.csv"] == StoredFile(b"gene\n", large=False)
    assert "genes.csv" not in hub.state.repository(repository).files


def test_data_set_is_pushed_loaded_and_streamed(hub: HubServer, repo_id: str) -> None:
    datasets = pytest.importorskip("datasets")
    cells = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "cell_type": ["B cell", "T cell"]})
    cells.push_to_hub(repo_id)
    loaded = datasets.load_dataset(repo_id, split="train")
    streamed = datasets.load_dataset(repo_id, split="train", streaming=True)
    assert loaded.to_list() == list(streamed) == cells.to_list()
