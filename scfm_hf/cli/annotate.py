"""scfm annotate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells, refuse_existing, write_cells
from scfm_hf.cli.options import TokenizerOptions, tokenizer_options


class Method(StrEnum):
    """How cells get their labels."""

    neighbours = "neighbours"
    linear = "linear"
    classifier = "classifier"


class Features(StrEnum):
    """What labels are told from."""

    embedding = "embedding"
    joined = "joined"


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of an encoder, a fine-tuned classifier, or an adapter.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .h5ad file to write.")],
    base: Annotated[str | None, typer.Option(help="Base of an adapter that does not say where its base is.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Labelled cells, for neighbours and linear.")] = None,
    labels: Annotated[str, typer.Option(help="Column of the reference's obs with the labels.")] = "cell_type",
    method: Annotated[Method | None, typer.Option(help="How; neighbours with a reference, else classifier.")] = None,
    features: Annotated[
        Features, typer.Option(help="The embedding, or it joined with principal components of reference and cells.")
    ] = Features.embedding,
    unknown_below: Annotated[float, typer.Option(help='Label "unknown" below this probability.')] = 0.0,
    layer: Annotated[str | None, typer.Option(help="Layer with the values.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    cell_sets: Annotated[
        str | None, typer.Option(help="Column of obs that names sets of cells, or 'all'; for models that read sets.")
    ] = None,
    option: TokenizerOptions = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Label cells by a labelled reference or by a fine-tuned classifier."""
    from scfm_hf.tasks.annotate import annotate

    if reference is None and method in (Method.neighbours, Method.linear):
        raise typer.BadParameter(f"--method {method.value} needs labelled cells: --reference")
    options = tokenizer_options(option, cell_sets=cell_sets)
    refuse_existing(output, overwrite=overwrite)
    adata = read_cells(cells)
    annotate(
        adata,
        model,
        base=base,
        reference=read_cells(reference) if reference is not None else None,
        labels=labels,
        method=method.value if method is not None else None,
        features=features.value,
        unknown_below=unknown_below,
        layer=layer,
        gene_column=gene_column,
        min_overlap=min_overlap,
        revision=revision,
        inplace=True,
        **options,
    )
    write_cells(adata, output, overwrite=overwrite)
    counts = adata.obs[f"{labels}_predicted"].value_counts()
    typer.echo("\n".join(f"{name}: {number:,}" for name, number in counts.items() if number))
    typer.echo(f"in obs[{labels + '_predicted'!r}] of {output}")
