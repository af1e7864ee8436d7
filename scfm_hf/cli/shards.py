"""scfm shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.options import TokenizerOptions, tokenizer_options


@readable_failures
def run(
    files: Annotated[list[str], typer.Argument(help="Files of cells, folders, patterns or URLs.")],
    tokenizer: Annotated[
        str, typer.Option(help="Folder or hub id of the tokenizer or its model, or name of one that ships.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the shards.")],
    labels: Annotated[str | None, typer.Option(help="Column of obs that becomes the labels.")] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="A further column of obs; repeatable.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens a cell.")] = None,
    option: TokenizerOptions = None,
    shard_size: Annotated[int, typer.Option(help="Cells a shard, about.")] = 8192,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    mixed: Annotated[bool, typer.Option("--mixed", help="Mix the cells of all files.")] = False,
    seed: Annotated[int, typer.Option(help="Of the mixing.")] = 0,
    licence: Annotated[str | None, typer.Option(help="Of the cells, for the card, such as cc-by-4.0.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out files that cannot be used.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Tokenise many files into Parquet shards with a manifest; the same command goes on where it was stopped."""
    from transformers import AutoTokenizer

    from scfm_hf.data.shards import tokenize_corpus
    from scfm_hf.models.released import released_tokenizers

    manifest = tokenize_corpus(
        files,
        AutoTokenizer.from_pretrained(released_tokenizers().get(tokenizer, tokenizer)),
        output,
        labels=labels,
        columns=columns or (),
        layer=layer,
        gene_column=gene_column,
        min_overlap=min_overlap,
        max_length=max_length,
        shard_size=shard_size,
        workers=workers,
        order="mixed" if mixed else "files",
        seed=seed,
        licence=licence,
        on_error="skip" if skip else "raise",
        overwrite=overwrite,
        **tokenizer_options(option),
    )
    for reason in manifest.skipped.values():
        typer.echo(f"skipped: {reason}", err=True)
    typer.echo(
        f"{manifest.n_rows:,} cells, {manifest.n_tokens:,} tokens, {manifest.n_bytes / 1e6:,.1f} MB in "
        f"{len(manifest.shards):,} shards in {output}"
    )
