"""scfm inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder.")],
    model: Annotated[
        str | None,
        typer.Option(help="Also say how much of the vocabulary of a model, or of a tokenizer that ships, it has."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what is in a file: raw or not, which gene names, species, quality figures."""
    from transformers import AutoTokenizer

    from scfm_hf.cells import inspect_cells
    from scfm_hf.models.released import released_tokenizers

    mapper = (
        AutoTokenizer.from_pretrained(released_tokenizers().get(model, model)).mapper if model is not None else None
    )
    report = inspect_cells(read_cells(cells, backed=True), mapper=mapper)
    typer.echo(json.dumps(report.to_dict(), default=str) if as_json else str(report))
