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
    epochs: Annotated[float, typer.Option(help="Most epochs.")] = 5,
    learning_rate: Annotated[float | None, typer.Option(help="1e-3 for adapters, 5e-5 for all weights.")] = None,
    batch_size: Annotated[int, typer.Option(help="Cells a step.")] = 16,
    class_weighting: Annotated[bool, typer.Option("--class-weighting", help="Weigh rare classes more.")] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="Show every class equally often.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted run.")] = False,
    seed: Annotated[int, typer.Option(help="Of the split and the training.")] = 0,
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
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        class_weighting=class_weighting,
        balanced=balanced,
        resume=resume,
        seed=seed,
    )
    figures = ", ".join(f"{name} {result.metrics[name]:.3f}" for name in ("accuracy", "macro_f1"))
    typer.echo(f"validation cells: {figures}; in {result.output}")
