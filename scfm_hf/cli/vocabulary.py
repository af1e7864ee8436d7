"""scfm vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.options import TokenizerOptions, tokenizer_options


@readable_failures
def run(
    files: Annotated[list[str], typer.Argument(help="Files of cells, folders, patterns or URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tokenizer.")],
    scheme: Annotated[
        str, typer.Option(help="rank, bin, genecompass, nicheformer, cellprofile, or one that needs no statistics.")
    ] = "rank",
    groups: Annotated[
        str | None, typer.Option(help="Column of obs with the technology (nicheformer) or study (cellprofile).")
    ] = None,
    min_cells: Annotated[int, typer.Option(help="Leave out genes that fewer cells express.")] = 10,
    max_length: Annotated[int, typer.Option(help="Most tokens a cell.")] = 2048,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    extra_tokens: Annotated[list[str] | None, typer.Option("--token", help="A further token; repeatable.")] = None,
    option: TokenizerOptions = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Keep all values in memory, 12 bytes each; needs no further package.")
    ] = False,
    partial: Annotated[Path | None, typer.Option(help="Folder to keep the statistics of each file in.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out files that cannot be used.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Read a corpus once, and make a tokenizer of its genes and their statistics."""
    from scfm_hf.data.corpus_tokenizer import tokenizer_from_corpus
    from scfm_hf.folders import refuse_taken, whole_folder

    refuse_taken(output, replaceable=("tokenizer_config.json",) if overwrite else ())
    counting: dict[str, Any] = {"layer": layer, "gene_column": gene_column, "groups": groups, "partial": partial}
    made = tokenizer_from_corpus(
        files,
        scheme=scheme,
        min_cells=min_cells,
        max_length=max_length,
        extra_tokens=extra_tokens or (),
        counting={**counting, "on_error": "skip" if skip else "raise", **({"accuracy": None} if exact else {})},
        **tokenizer_options(option),
    )
    with whole_folder(output, replace=overwrite) as folder:
        made.save_pretrained(folder)
    statistics = ", ".join(made.statistics) or "none"
    typer.echo(f"{len(made.vocabulary.gene_tokens):,} genes in {output}; statistics: {statistics}")
