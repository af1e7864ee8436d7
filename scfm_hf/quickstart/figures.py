"""How well labels were told, with intervals, and where that is written."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

#: Table -> way -> ``accuracy``, ``macro_f1`` and its interval.
Figures = dict[str, dict[str, dict[str, float]]]
N_RESAMPLED = 1000


def resample(n_cells: int, seed: int) -> NDArray[np.int64]:
    """How often each cell is in each bootstrap sample; the first line is all cells once, (1 + N_RESAMPLED, n_cells)."""
    drawn = np.random.default_rng(seed).multinomial(n_cells, np.full(n_cells, 1 / n_cells), N_RESAMPLED)
    return np.concatenate([np.ones((1, n_cells), np.int64), drawn])


def scores(wanted: Any, told: Sequence[Any], times: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy and macro-F1, and the 95 % interval of the latter over bootstrap samples of cells.

    Parameters
    ----------
    wanted
        True labels, (n_cells,).
    told
        Labels told, once or several times, each (n_cells,); figures are means over these.
    times
        See :func:`resample`.
    """
    wanted = np.asarray(wanted, str)
    found = [np.asarray(one, str) for one in told]
    macro = np.mean([_macro_f1(wanted, one, times) for one in found], axis=0)
    low, high = np.quantile(macro[1:], [0.025, 0.975])
    return {
        "accuracy": float(np.mean([wanted == one for one in found])),
        "macro_f1": float(macro[0]),
        "macro_f1_low": float(low),
        "macro_f1_high": float(high),
    }


def _macro_f1(wanted: NDArray[np.str_], found: NDArray[np.str_], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean F1 of the true classes in each sample, (n_samples,); a class that a sample lacks does not count in it."""
    each = []
    for name in np.unique(wanted):
        right = times @ ((wanted == name) & (found == name)).astype(np.int64)
        n_wanted, n_found = (times @ (one == name).astype(np.int64) for one in (wanted, found))
        each.append(np.where(n_wanted > 0, 2 * right / np.maximum(n_wanted + n_found, 1), np.nan))
    return np.nanmean(each, axis=0)


def report(figures: Figures, folder: Path) -> None:
    """Print the figures, and leave them as JSON."""
    for table, ways in figures.items():
        print(f"\n{table:<44}accuracy   macro-F1 [95 % interval over held-out cells]")
        for name, found in ways.items():
            interval = f"[{found['macro_f1_low']:.3f}, {found['macro_f1_high']:.3f}]"
            print(f"{name:<44}{found['accuracy']:>8.3f}   {found['macro_f1']:>8.3f} {interval}")
    print(
        "\nThe model that ships has seen 20,000 cells, your own 2,000: examples, not foundation models, and the "
        "baselines are there to say so.\n"
        f"Results in {folder}: annotated.h5ad, umap.png, the model of your own in base, its adapter in adapter"
    )
    (folder / "figures.json").write_text(json.dumps({"figures": figures, "machine": machine()}, indent=2) + "\n")


def machine() -> str:
    """Processor and versions, for whoever compares numbers."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "numpy"))
    return f"{platform.machine()}, Python {platform.python_version()}, {libraries}"
