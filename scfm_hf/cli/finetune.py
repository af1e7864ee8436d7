"""scfm finetune."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures
from scfm_hf.cli.files import read_cells


class Method(StrEnum):
    """What is trained."""

    lora = "lora"
    dora = "dora"
    ia3 = "ia3"
    full = "full"


@readable_failures
def run(
    cells: Annotated[Path, typer.Argument(help="An .h5ad file or .zarr folder with labels in obs.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of the model to start from.")],
    labels: Annotated[str, typer.Option(help="Column of obs with the classes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter or model.")],
    method: Annotated[Method, typer.Option(help="An adapter, or all weights.")] = Method.lora,
    layer: Annotated[str | None, typer.Option(help="Layer with the values.")] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var that names the genes.")] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Least share of genes and counts that must be known; None: the model's own.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Most epochs.")] = 5,
    learning_rate: Annotated[float | None, typer.Option(help="1e-3 for adapters, 5e-5 for all weights.")] = None,
    batch_size: Annotated[int, typer.Option(help="Cells a step.")] = 16,
    validation_share: Annotated[float, typer.Option(help="Share of each class that chooses the best epoch.")] = 0.1,
    class_weighting: Annotated[bool, typer.Option("--class-weighting", help="Weigh rare classes more.")] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="Show every class equally often.")] = False,
    freeze_embeddings: Annotated[bool, typer.Option("--freeze-embeddings", help="With --method full.")] = False,
    freeze_layers: Annotated[int, typer.Option(help="First layers that do not train, with --method full.")] = 0,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without gain; 0 never does.")] = 3,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted run.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
) -> None:
    """Fine-tune a model to label cells, with transformers' Trainer."""
    from scfm_hf.tasks.finetune import finetune

    result = finetune(
        read_cells(cells),
        model,
        labels=labels,
        output=output,
        method=method.value,
        layer=layer,
        gene_column=gene_column,
        min_overlap=min_overlap,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        validation_share=validation_share,
        class_weighting=class_weighting,
        balanced=balanced,
        freeze_embeddings=freeze_embeddings,
        freeze_layers=freeze_layers,
        patience=patience or None,
        resume=resume,
        revision=revision,
        seed=seed,
        overwrite=overwrite,
    )
    typer.echo(str(result))
