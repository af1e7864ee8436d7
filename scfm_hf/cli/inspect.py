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
    model: Annotated[str | None, typer.Option(help="Also say how much of this model's vocabulary the file has.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what is in a file: raw or not, which gene names, species, quality figures."""
    from scfm_hf.cells import CellMatrix, choose_gene_column, inspect_cells

    adata = read_cells(cells, backed=True)
    report = inspect_cells(adata)
    mapping = None
    if model is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        vocabulary = tokenizer.vocabulary
        column = choose_gene_column(adata, id_kind=vocabulary.id_kind)
        mapping = tokenizer.mapper.map(CellMatrix(adata, gene_column=column).gene_names).report
    if as_json:
        found = report.to_dict() | ({"vocabulary": mapping.to_dict()} if mapping else {})
        typer.echo(json.dumps(found, default=str))
        return
    typer.echo(str(report))
    if mapping is not None:
        typer.echo(f"\n{model}: {mapping}")
