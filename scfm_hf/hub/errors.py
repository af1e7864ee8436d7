"""Hub trouble in the hub client's own exceptions, with one added line on what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_STATUS = {
    401: "The hub does not accept this token. Log in again with `hf auth login`, or pass token=.",
    403: "This needs write access to {repo_id}: make a token that has it at {endpoint}/settings/tokens, or choose a "
    "repository of your own.",
    409: "Something of that name exists already. Choose another name, or delete the old one first.",
    412: "{repo_id} has changed since this push began, and nothing was written. Look at the change, then push again.",
    429: "The hub limits how often it is asked. Wait some minutes, then try again.",
}


@contextmanager
def explain_hub_errors(repo_id: str, *, revision: str | None = None) -> Iterator[None]:
    """Add a line on what to do to whatever the hub client raises inside the ``with`` block.

    The exception stays the same object of the same class, so what handles the hub client's exceptions keeps working.

    Parameters
    ----------
    repo_id, revision
        What was asked for, to be named in the line.
    """
    try:
        yield
    except (HTTPError, EntryNotFoundError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        advice = _advice(error).format(
            repo_id=repo_id, revision=revision or constants.DEFAULT_REVISION, endpoint=constants.ENDPOINT
        )
        # In the message rather than as a note, for those who print str(error) only.
        first, *others = error.args or ("",)
        error.args = (f"{first}\nWhat to do: {advice}", *others)
        raise


def _advice(error: Exception) -> str:
    """What the user can do about an error; narrower classes first, as the client's classes derive from one another."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    match error:
        case GatedRepoError():
            return (
                "Ask for access on {endpoint}/{repo_id}; once it is granted, log in with `hf auth login`, or pass "
                "token= of that account."
            )
        case RepositoryNotFoundError() if status == 401:
            return (
                "Check the spelling of {repo_id!r}. A private repository also looks like this: log in with "
                "`hf auth login`, or pass token=."
            )
        case RepositoryNotFoundError():
            return (
                "Check the spelling of {repo_id!r} on {endpoint}. A private repository of somebody else also looks "
                "like this: ask its owner to add your account."
            )
        case RevisionNotFoundError():
            return (
                "{repo_id} has no branch, tag or commit {revision!r}. See what there is with "
                "huggingface_hub.list_repo_refs({repo_id!r})."
            )
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                "{repo_id} at {revision!r} is not complete in the cache, and {endpoint} was not reached. Pull it once "
                "with a connection (without local_files_only=True and HF_HUB_OFFLINE), set HF_ENDPOINT to a hub "
                "that can be reached, or give the path of a folder."
            )
        case EntryNotFoundError():
            return (
                "{repo_id} at {revision!r} lacks this file. See what there is with "
                "huggingface_hub.list_repo_files({repo_id!r})."
            )
        case LocalTokenNotFoundError():
            return "Log in with `hf auth login`, set HF_TOKEN, or pass token=."
        case HfHubHTTPError() if status in _BY_STATUS:
            return _BY_STATUS[status]
        case HfHubHTTPError():
            return "{endpoint} could not answer. Try again later; nothing was written."
        case _:
            return (
                "{endpoint} was not reached. Check the connection and the proxy, or set HF_ENDPOINT to the hub "
                "that you mean."
            )
