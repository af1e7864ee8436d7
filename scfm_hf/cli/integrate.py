"""scfm integrate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells, refuse_existing, write_cells


class Mode(StrEnum):
    """What the space is made of."""

    embedding = "embedding"
    joined = "joined"


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder with the cells of all batches.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of the model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .h5ad file to write.")],
    batch_key: Annotated[str | None, typer.Option(help="Column of obs that names the batches.")] = None,
    mode: Annotated[
        Mode, typer.Option(help="The model's embedding, or it joined with principal components of these cells.")
    ] = Mode.embedding,
    base: Annotated[str | None, typer.Option(help="Base of an adapter that does not say where its base is.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the values.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Put cells of several batches into one space, in obsm of the output."""
    from scfm_hf.tasks.integrate import integrate

    refuse_existing(output, overwrite=overwrite)
    adata = read_cells(cells)
    integrate(
        adata,
        model,
        batch_key=batch_key,
        mode=mode.value,
        base=base,
        layer=layer,
        gene_column=gene_column,
        min_overlap=min_overlap,
        revision=revision,
        inplace=True,
    )
    write_cells(adata, output, overwrite=overwrite)
    width = adata.obsm["X_integrated"].shape[1]
    typer.echo(f"{adata.n_obs:,} cells x {width} numbers in obsm['X_integrated'] of {output}")
