"""Pulling gives a folder that is whole, from the hub or from the cache, or none at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hub.small_models import make_bert, results
from hub_server import HubServer, Reply, Request
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModel, BertModel

from scfm_hf.hub import pull, push

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hub


@pytest.fixture
def pushed(hub: HubServer, repo_id: str, bert: BertModel) -> str:
    push(bert, repo_id)
    return repo_id


def test_pulled_model_gives_the_same_results(pushed: str, bert: BertModel) -> None:
    assert torch.equal(results(AutoModel.from_pretrained(pull(pushed))), results(bert))


def test_copy_is_put_where_it_is_asked_for(pushed: str, bert: BertModel, tmp_path: Path) -> None:
    folder = pull(pushed, to=tmp_path / "models" / "mine")
    assert folder == tmp_path / "models" / "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert torch.equal(results(AutoModel.from_pretrained(folder)), results(bert))
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_folder_that_exists_is_left_alone(pushed: str, hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    hub.log.clear()
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        pull(pushed, to=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert hub.log == []


@pytest.mark.parametrize("kind", ["branch", "tag", "commit"])
def test_revision_is_a_branch_a_tag_or_a_commit(pushed: str, bert: BertModel, kind: str) -> None:
    commit = HfApi().model_info(pushed).sha
    HfApi().create_branch(pushed, branch="old")
    HfApi().create_tag(pushed, tag="v1")
    push(make_bert(seed=1), pushed)
    folder = pull(pushed, revision={"branch": "old", "tag": "v1", "commit": commit}[kind])
    assert torch.equal(results(AutoModel.from_pretrained(folder)), results(bert))


def test_what_was_pulled_comes_from_the_cache_without_a_request(pushed: str, hub: HubServer) -> None:
    folder = pull(pushed)
    hub.log.clear()
    assert pull(pushed, local_files_only=True) == folder
    assert hub.log == []


def test_interrupted_pull_shows_no_folder_and_goes_on_later(
    pushed: str, hub: HubServer, bert: BertModel, tmp_path: Path
) -> None:
    missing = Reply(b"{}", HTTPStatus.NOT_FOUND, {"X-Error-Code": "EntryNotFound"})
    hub.intercept = lambda request: missing if "/large-files/" in request.path else None
    with pytest.raises(Exception, match="What to do"):
        pull(pushed, to=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LocalEntryNotFoundError):
        pull(pushed, local_files_only=True)
    hub.intercept = None
    hub.log.clear()
    assert torch.equal(results(AutoModel.from_pretrained(pull(pushed, to=tmp_path / "model"))), results(bert))
    assert not [path for method, path in hub.log if method == "GET" and path.endswith("config.json")]


@pytest.mark.slow
def test_killed_pull_shows_no_folder(pushed: str, hub: HubServer, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if "/large-files/" in request.path:
            reached.set()
            go_on.wait(60)

    hub.intercept = wait
    code = "import sys; from scfm_hf.hub import pull; pull(sys.argv[1], to=sys.argv[2])"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-c", code, pushed, str(tmp_path / "models" / "mine")], env=environment)
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    go_on.set()
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_cached_model_loads_offline_by_its_name(pushed: str, hub: HubServer, tmp_path: Path, run_python: Any) -> None:
    cache = str(tmp_path / "cache")
    run_python("import sys; from scfm_hf.hub import pull; pull(sys.argv[1]); print(1)", pushed, HF_HOME=cache)
    hub.log.clear()
    code = (
        "import json, sys; from scfm_hf.hub import pull; from transformers import AutoModel;"
        "pull(sys.argv[1]); AutoModel.from_pretrained(sys.argv[1]); print(json.dumps('loaded'))"
    )
    assert run_python(code, pushed, HF_HOME=cache, HF_HUB_OFFLINE="1") == "loaded"
    assert hub.log == []
