"""scfm push."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures


@readable_failures
def run(
    folder: Annotated[Path, typer.Argument(help="Folder of a model, an adapter, or token shards.")],
    repository: Annotated[str, typer.Argument(help="Name on the hub, owner/name.")],
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who may see it.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request.")] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> None:
    """Push model, tokenizer, card and manifest, or a data set of token shards, to a hub, in one commit."""
    from scfm_hf.data.open_shards import push_shards
    from scfm_hf.data.shard_manifest import MANIFEST
    from scfm_hf.hub import push

    send: Callable[..., str] = push_shards if (folder / MANIFEST).is_file() else push
    address = send(
        folder, repository, private=private, revision=revision, create_pr=pull_request, commit_message=message
    )
    typer.echo(address)
