"""scfm tokenize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells
from scfm_hf.cli.options import TokenizerOptions, tokenizer_options


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of the model, or name of a tokenizer that ships.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the data set.")],
    labels: Annotated[str | None, typer.Option(help="Column of obs that becomes the labels.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the values.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    option: TokenizerOptions = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Tokenise cells into a datasets.Dataset on disk."""
    from transformers import AutoTokenizer

    from scfm_hf.folders import refuse_taken, whole_folder
    from scfm_hf.models.released import released_tokenizers

    options = tokenizer_options(option)
    refuse_taken(output, replaceable=("dataset_info.json",) if overwrite else ())
    tokenizer = AutoTokenizer.from_pretrained(released_tokenizers().get(model, model))
    dataset = tokenizer.to_dataset(
        read_cells(cells), labels=labels, layer=layer, gene_column=gene_column, min_overlap=min_overlap, **options
    )
    with whole_folder(output, replace=overwrite) as folder:
        dataset.save_to_disk(str(folder))
    typer.echo(f"{len(dataset):,} cells, {sum(dataset['length']):,} tokens in {output}")
