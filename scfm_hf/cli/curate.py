"""scfm curate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import refuse_existing


@readable_failures
def run(
    files: Annotated[list[str], typer.Argument(help="Files, folders or patterns of a corpus.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write: columns, pairs and a report.")],
    layer: Annotated[str | None, typer.Option(help="Layer with the counts.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    sample: Annotated[str | None, typer.Option(help="Column of obs that names the sample; else a file is one.")] = None,
    min_counts: Annotated[float, typer.Option(help="Least counts of a cell.")] = 500,
    min_genes: Annotated[float, typer.Option(help="Least genes of a cell.")] = 200,
    max_mitochondrial: Annotated[float, typer.Option(help="Greatest share of mitochondrial counts.")] = 0.2,
    doublets: Annotated[bool, typer.Option("--doublets", help="Run Scrublet on each sample.")] = False,
    ambient: Annotated[bool, typer.Option("--ambient", help="Run DecontX on each sample.")] = False,
    keep_to: Annotated[
        Path | None, typer.Option("--apply", help="Folder to write the cells without a flag to, as .h5ad files.")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out files that cannot be used, and list them.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Flag the cells of a corpus: quality, doublets, ambient RNA, copies. No file is changed."""
    from scfm_hf.data.curation import QualityLimits, curate_corpus, write_kept_cells, write_report
    from scfm_hf.folders import whole_folder

    for place in (output, keep_to):
        if place is not None:
            refuse_existing(place, overwrite=overwrite)
    curation = curate_corpus(
        files,
        layer=layer,
        gene_column=gene_column,
        sample_column=sample,
        limits=QualityLimits(min_counts=min_counts, min_genes=min_genes, max_mitochondrial_share=max_mitochondrial),
        find_doublets=doublets,
        find_ambient=ambient,
        on_error="skip" if skip else "raise",
    )
    with whole_folder(output, replace=overwrite) as folder:
        curation.write_into(folder)
        write_report(curation, folder)
    typer.echo(f"{curation}\nColumns and report in {output}")
    if keep_to is not None:
        written = write_kept_cells(curation.keep(), keep_to, replace=overwrite)
        typer.echo(f"{len(written):,} files of the cells without a flag in {keep_to}")
