"""The card of a model that was pretrained here: written from the run."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_hf.cards import Manifest, model_card
from scfm_hf.tasks.pretraining_config import to_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scfm_hf.data.stream import CellStream
    from scfm_hf.tasks.pretraining_config import PretrainingConfig
    from scfm_hf.training.trainer import CellTrainer

#: Files that the card lists by name; of more it gives the number.
_LISTED_FILES = 30


def write_card(
    folder: Path,
    config: PretrainingConfig,
    trainer: CellTrainer,
    train: CellStream,
    *,
    metrics: Mapping[str, float],
    picture: Path | None,
) -> None:
    """Write ``README.md`` and the manifest of a pretrained model.

    Parameters
    ----------
    folder
        Of the saved model.
    config, trainer, train
        Of the run.
    metrics
        Losses on held-out cells.
    picture
        The curve of the losses, in the folder.
    """
    import json

    from scfm_hf.hub.origin import origin_of
    from scfm_hf.models.registry import family_of

    model = trainer.accelerator.unwrap_model(trainer.model)
    spec = family_of(model)
    origin = origin_of(getattr(model, "encoder", model))
    base = config.model.get("from")
    manifest = Manifest(
        family=spec.name,
        base_model=(origin.model_id or Path(str(base)).name) if base else None,
        base_revision=origin.revision if base else None,
        vocabulary_digest=model.config.vocabulary_digest,
    )
    manifest.write(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    figures = dict(_figures(trainer, metrics))
    card = model_card(spec, config=written, manifest=manifest, report=figures)
    begun = f"Trained further from {base}" if base else f"Trained from scratch: {spec.title} is its architecture alone"
    sections = [card.content.rstrip(), "", "## Training", "", f"{begun}. {_data(train)}"]
    if picture is not None:
        sections += ["", f"![Losses over the steps]({picture.name})"]
    sections += ["", "```yaml", to_yaml(config.to_dict()).rstrip(), "```", ""]
    (folder / "README.md").write_text("\n".join(sections), encoding="utf-8")


def machine() -> str:
    """Processor or accelerator that a run has, and how many cores."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = (line.partition(":") for line in information.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {cores} cores, {torch.get_num_threads()} threads"


def _figures(trainer: CellTrainer, metrics: Mapping[str, float]) -> Iterator[tuple[str, Any]]:
    """Figures of a run by what the card calls them."""
    state, total = trainer.state, trainer.throughput.total
    losses = [entry for entry in state.log_history if "loss" in entry]
    yield "Steps", f"{state.global_step:,} (epochs: {state.epoch:.2f})"
    yield (
        "Cells a step",
        trainer.args.train_batch_size * trainer.args.world_size * trainer.args.gradient_accumulation_steps,
    )
    if losses:
        yield "Training loss, first and last logged", f"{losses[0]['loss']:.4g}, {losses[-1]['loss']:.4g}"
        for name, value in losses[-1].items():
            if name.startswith("loss_"):
                yield f"Last training loss of {name.removeprefix('loss_')}", float(value)
    for name, value in metrics.items():
        if name.startswith("eval_loss"):
            part = name.removeprefix("eval_loss").lstrip("_")
            yield f"Loss on held-out cells{f', {part}' if part else ''}", float(value)
    speed = total.figures()
    if speed:
        yield "Cells a second", f"{speed['cells_per_second']:,.0f}"
        yield "Tokens a second", f"{speed['tokens_per_second']:,.0f}"
        yield "Share of time waiting for data", f"{speed['share_waiting_for_data']:.1%}"
        yield "Time in training steps", f"{(total.waiting + total.training) / 60:,.1f} minutes"
    yield "Machine", machine()


def _data(train: CellStream) -> str:
    """What it was trained on, in words and a table."""
    table = train.report.files
    text = [
        f"{train.n_cells:,} cells an epoch, of {len(table):,} files.",
        "",
        "| file | cells | genes known |",
    ]
    text += ["|---|---|---|"]
    for _, row in table.head(_LISTED_FILES).iterrows():
        text.append(f"| {Path(row['file']).name} | {row['n_cells']:,} | {row['n_matched']:,} of {row['n_genes']:,} |")
    if len(table) > _LISTED_FILES:
        text.append(f"| and {len(table) - _LISTED_FILES:,} more | {int(table['n_cells'][_LISTED_FILES:].sum()):,} | |")
    if train.report.skipped:
        text += ["", f"{len(train.report.skipped):,} files could not be used and were skipped."]
    return "\n".join(text)
