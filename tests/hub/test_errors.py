"""Hub trouble keeps the hub client's exceptions, and says in one more line what to do."""

from __future__ import annotations

import importlib
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from hub_server import HubServer, Reply
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from scfm_hf.hub import explain_hub_errors, pull, push

if TYPE_CHECKING:
    from transformers import BertModel

pytestmark = pytest.mark.hub

# The HTTP client of huggingface_hub: httpx2 from its version 2, httpx before.
http_client = importlib.import_module("httpx2" if find_spec("httpx2") else "httpx")


def advice_of(error: BaseException) -> str:
    """The added line, which is the last one and the only one of its kind."""
    lines = str(error).splitlines()
    assert sum(line.startswith("What to do: ") for line in lines) == 1
    return lines[-1].removeprefix("What to do: ")


def test_unknown_repository_without_an_account(hub: HubServer, repo_id: str) -> None:
    with pytest.raises(RepositoryNotFoundError) as error:
        pull(repo_id, token=False)
    assert error.value.response.status_code == HTTPStatus.UNAUTHORIZED
    assert f"spelling of {repo_id!r}" in advice_of(error.value)
    assert "hf auth login" in advice_of(error.value)


def test_unknown_repository(hub: HubServer, repo_id: str) -> None:
    with pytest.raises(RepositoryNotFoundError) as error:
        pull(repo_id)
    assert error.value.response.status_code == HTTPStatus.NOT_FOUND
    assert f"spelling of {repo_id!r} on {hub.url}" in advice_of(error.value)


def test_private_repository_of_somebody_else(hub: HubServer, repo_id: str) -> None:
    HfApi().create_repo(repo_id, private=True)
    with pytest.raises(RepositoryNotFoundError) as error:
        pull(repo_id, token="hf_guest")
    assert "ask its owner to add your account" in advice_of(error.value)
    with pytest.raises(RepositoryNotFoundError) as error:
        pull(repo_id, token=False)
    assert "log in with `hf auth login`, or pass token=" in advice_of(error.value)
    assert pull(repo_id).is_dir()


@pytest.mark.parametrize("token", [False, "hf_guest"])
def test_gated_repository(hub: HubServer, repo_id: str, bert: BertModel, token: str | bool) -> None:
    push(bert, repo_id)
    hub.state.repository(repo_id).gated = True
    with pytest.raises(GatedRepoError) as error:
        pull(repo_id, token=token)
    assert f"Ask for access on {hub.url}/{repo_id}" in advice_of(error.value)


def test_gated_repository_opens_with_a_grant(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id)
    repository = hub.state.repository(repo_id)
    repository.gated = True
    repository.granted.add("guest")
    assert (pull(repo_id, token="hf_guest") / "config.json").is_file()


def test_unknown_revision(hub: HubServer, repo_id: str) -> None:
    HfApi().create_repo(repo_id)
    with pytest.raises(RevisionNotFoundError) as error:
        pull(repo_id, revision="v7")
    assert "no branch, tag or commit 'v7'" in advice_of(error.value)


def test_unknown_file(hub: HubServer, repo_id: str) -> None:
    HfApi().create_repo(repo_id)
    with pytest.raises(RemoteEntryNotFoundError) as error, explain_hub_errors(repo_id):
        hf_hub_download(repo_id, "tokenizer.json")
    assert "list_repo_files" in advice_of(error.value)


def test_token_that_the_hub_does_not_know(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    with pytest.raises(HfHubHTTPError) as error:
        push(bert, repo_id, token="hf_unknown")
    assert error.value.response.status_code == HTTPStatus.UNAUTHORIZED
    assert "does not accept this token" in advice_of(error.value)


def test_push_to_somebody_elses_repository(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    HfApi().create_repo(repo_id)
    with pytest.raises(HfHubHTTPError) as error:
        push(bert, repo_id, token="hf_guest")
    assert error.value.response.status_code == HTTPStatus.FORBIDDEN
    assert f"write access to {repo_id}" in advice_of(error.value)


def test_what_was_never_pulled_is_not_in_the_cache(hub: HubServer, repo_id: str) -> None:
    HfApi().create_repo(repo_id)
    with pytest.raises(LocalEntryNotFoundError) as error:
        pull(repo_id, local_files_only=True)
    assert "Pull it once with a connection" in advice_of(error.value)
    assert not [path for _, path in hub.log if repo_id in path]


@pytest.mark.parametrize(
    ("status", "advice"),
    [(HTTPStatus.TOO_MANY_REQUESTS, "Wait some minutes"), (HTTPStatus.INTERNAL_SERVER_ERROR, "could not answer")],
)
def test_hub_that_refuses_to_work(
    hub: HubServer, repo_id: str, bert: BertModel, status: HTTPStatus, advice: str
) -> None:
    hub.intercept = lambda request: Reply(b"{}", status) if request.path.endswith("/commit/main") else None
    with pytest.raises(HfHubHTTPError) as error:
        push(bert, repo_id)
    assert advice in advice_of(error.value)
    assert list(hub.state.repository(repo_id).files) == [".gitattributes"]


@pytest.mark.parametrize(
    "error",
    [
        LocalTokenNotFoundError("no token"),
        OfflineModeIsEnabled("offline"),
        http_client.ConnectError("refused"),
        http_client.ReadTimeout("slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_exception_stays_the_same_object(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explain_hub_errors("owner/model"):
        raise error
    assert raised.value is error
    assert advice_of(error)


def test_errors_of_other_kinds_are_left_alone() -> None:
    with pytest.raises(ValueError, match="^mine$"), explain_hub_errors("owner/model"):
        raise ValueError("mine")


UNREACHABLE = """
import json, sys
from scfm_hf.hub import pull, push
from transformers import BertConfig, BertModel
sizes = dict(vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
model = BertModel(BertConfig(**sizes))
found = []
for call in (lambda: pull("owner/model"), lambda: push(model, "owner/model")):
    try:
        call()
    except Exception as error:
        found.append([type(error).__name__, str(error).splitlines()[-1]])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_self_hosted_hub_that_is_not_there(run_python: Any) -> None:
    pulled, pushed = run_python(UNREACHABLE, HF_ENDPOINT="http://127.0.0.1:9")
    assert pulled[0] == "LocalEntryNotFoundError"
    assert pushed[0] == "ConnectError"
    assert all(
        "http://127.0.0.1:9 was not reached" in line and "set HF_ENDPOINT" in line for _, line in (pulled, pushed)
    )


@pytest.mark.slow
def test_offline_mode(run_python: Any) -> None:
    pulled, pushed = run_python(UNREACHABLE, HF_HUB_OFFLINE="1")
    assert (pulled[0], pushed[0]) == ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
    assert all("HF_HUB_OFFLINE" in line for _, line in (pulled, pushed))
