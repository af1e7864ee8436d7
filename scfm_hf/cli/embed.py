"""scfm embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells, refuse_existing, write_cells
from scfm_hf.cli.options import TokenizerOptions, tokenizer_options


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of the model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .h5ad file to write.")],
    base: Annotated[str | None, typer.Option(help="Base of an adapter that does not say where its base is.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the values.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    pooling: Annotated[str | None, typer.Option(help="Recipe of the embedding; the authors' if left out.")] = None,
    genes: Annotated[bool, typer.Option("--genes", help="Also give each gene the mean of its states.")] = False,
    cell_sets: Annotated[
        str | None, typer.Option(help="Column of obs that names sets of cells, or 'all'; for models that read sets.")
    ] = None,
    option: TokenizerOptions = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most cells a batch.")] = None,
    keep_empty: Annotated[bool, typer.Option("--keep-empty", help="Give cells without a known gene NaN.")] = False,
    parts: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep vectors in while they are made, to go on from after an interruption and to share the "
            "work between the processes of torchrun; for these it is OUTPUT.parts if left out."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Embed cells: one vector a cell, in obsm of the output."""
    from scfm_hf.tasks.embed import embed
    from scfm_hf.tasks.ranks import is_first_rank, n_ranks

    options = tokenizer_options(option, cell_sets=cell_sets)
    refuse_existing(output, overwrite=overwrite)
    adata = read_cells(cells)
    if parts is None and n_ranks() > 1:
        parts = output.with_name(f"{output.name}.parts")
    embed(
        adata,
        model,
        base=base,
        layer=layer,
        gene_column=gene_column,
        pooling=pooling,
        genes=genes,
        min_overlap=min_overlap,
        batch_size=batch_size,
        empty_cells="keep" if keep_empty else "raise",
        parts=parts,
        revision=revision,
        inplace=True,
        **options,
    )
    if not is_first_rank():
        return
    write_cells(adata, output, overwrite=overwrite)
    key = adata.uns["scfm"]["embed"]["options"]["key_added"]
    typer.echo(f"{adata.n_obs:,} cells x {adata.obsm[key].shape[1]} numbers in obsm[{key!r}] of {output}")
