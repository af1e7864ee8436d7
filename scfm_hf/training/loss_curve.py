"""The losses of a run as a picture."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def plot_losses(log: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw the training and the validation loss of each objective over the steps.

    Parameters
    ----------
    log
        ``log_history`` of a Trainer's state.
    path
        File to write.

    Returns
    -------
    The path; None, and no file, where matplotlib is not installed (extra ``plots``) or nothing was logged.
    """
    curves = losses_by_name(log)
    if find_spec("matplotlib") is None or not curves:
        return None
    from matplotlib.figure import Figure

    parts = sorted({name.removeprefix("eval_") for name in curves}, key=lambda name: (name != "loss", name))
    figure = Figure(figsize=(1 + 3.2 * len(parts), 3), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        for name, label in ((part, "training"), (f"eval_{part}", "held out")):
            if name in curves:
                steps, values = zip(*curves[name], strict=True)
                axes.plot(steps, values, label=label, marker="." if len(steps) < 30 else None)
        axes.set(title=part.removeprefix("loss_"), xlabel="step")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def losses_by_name(log: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every loss in a log, by its name (``loss``, ``loss_<objective>``, ``eval_loss``, ...)."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in log:
        for name, value in entry.items():
            if name.removeprefix("eval_").split("_")[0] == "loss":
                curves.setdefault(name, []).append((int(entry["step"]), float(value)))
    return curves
