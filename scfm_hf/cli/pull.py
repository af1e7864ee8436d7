"""scfm pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures


@readable_failures
def run(
    repository: Annotated[str, typer.Argument(help="Name on the hub, owner/name.")],
    to: Annotated[Path | None, typer.Option(help="Folder to write; the hub's cache if left out.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Pull a model or an adapter from a hub."""
    from scfm_hf.hub import pull

    typer.echo(str(pull(repository, revision=revision, to=to)))
