"""``scfm``: the command line. One file a command; none has logic of its own."""

from __future__ import annotations

import typer

from scfm_hf.cli import (
    annotate,
    convert,
    curate,
    doctor,
    embed,
    families,
    finetune,
    inspect,
    integrate,
    pretrain,
    pull,
    push,
    tokenize,
)

app = typer.Typer(
    name="scfm",
    help="Single-cell foundation models as ordinary Hugging Face models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (
    families,
    inspect,
    curate,
    convert,
    tokenize,
    embed,
    pretrain,
    finetune,
    annotate,
    integrate,
    push,
    pull,
    doctor,
):
    app.command(name=command.__name__.rsplit(".", 1)[-1])(command.run)
