"""scfm convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.options import pairs, plain_value


@readable_failures
def run(
    places: Annotated[
        list[str],
        typer.Argument(metavar="[FAMILY] SOURCE OUTPUT", help="Family (recognised if left out), folder, output."),
    ],
    weights: Annotated[str | None, typer.Option(help="The weights file, where the folder has several.")] = None,
    file: Annotated[list[str] | None, typer.Option(help="A side file that lies elsewhere, as role=path.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the family's conversion, as name=value.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Convert an original's own files to a folder that from_pretrained reads."""
    from scfm_hf.conversion import convert_checkpoint

    if len(places) not in (2, 3):
        raise typer.BadParameter("give [FAMILY] SOURCE OUTPUT")
    family = places[0] if len(places) == 3 else None
    source, output = Path(places[-2]), Path(places[-1])
    files, options = (
        dict(pairs(file, "a side file is given as role=path")),
        dict(pairs(option, "an option is given as name=value")),
    )
    try:
        report = convert_checkpoint(
            source,
            output,
            family=family,
            weights=weights,
            files=files,
            overwrite=overwrite,
            **{name: plain_value(text) for name, text in options.items()},
        )
    except TypeError as error:  # the family has no such option
        raise typer.BadParameter(str(error)) from error
    typer.echo(str(report))
