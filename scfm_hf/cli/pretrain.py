"""scfm pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures


@readable_failures
def run(
    config: Annotated[Path, typer.Argument(help="YAML file that says what to train on what; see docs/pretraining.md.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
) -> None:
    """Pretrain a model on a corpus, from scratch or further; also under torchrun."""
    from scfm_hf.tasks.pretrain import pretrain

    typer.echo(str(pretrain(config, resume=resume, overwrite=overwrite)))
