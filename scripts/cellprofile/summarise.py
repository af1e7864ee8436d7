"""Tables of what ``measure.py`` left: means and deviations over seeds, and bootstrap intervals over cells.

Usage: python scripts/cellprofile/summarise.py build/cellprofile.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

BASELINE = "HVG + PCA, reference + query"
Lines = dict[tuple[str, str, str], list[dict[str, Any]]]


def read(paths: list[Path]) -> Lines:
    """Lines by fold, measure and way; of a seed that was run again, the last."""
    latest: dict[tuple[str, str, str, Any], dict[str, Any]] = {}
    for path in paths:
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            latest[line["fold"], line["measure"], line.get("way", ""), line.get("seed")] = line
    found: Lines = defaultdict(list)
    for (fold, measure, way, _), line in latest.items():
        found[fold, measure, way].append(line)
    return found


def transfers(lines: Lines, fold: str) -> None:
    """Macro-F1 and its deviation over seeds, intervals, each transfer, mixing and purity."""
    baseline = lines.get((fold, "transfer", BASELINE))
    print(f"\n| fold {fold} | macro-F1 (sd) | 95 % interval | minus PCA of both, 95 % | each | mixing / purity |")
    print("|---|---|---|---|---|---|")
    for (_, _, way), found in sorted(
        (item for item in lines.items() if item[0][:2] == (fold, "transfer")),
        key=lambda item: -np.mean([one["macro_f1"] for one in item[1]]),
    ):
        scores = [one["macro_f1"] for one in found]
        resampled = np.mean([one["resampled"] for one in found], 0)
        gain = "" if baseline is None else _interval(resampled - np.array(baseline[0]["resampled"]), signed=True)
        each = " ".join(f"{value:.2f}" for value in np.mean([one["each"] for one in found], 0))
        mixed = " / ".join(f"{np.mean([one[name] for one in found]):.2f}" for name in ("mixing", "purity"))
        spread = f" ({np.std(scores, ddof=1):.3f})" if len(scores) > 1 else ""
        print(f"| {way} | {np.mean(scores):.3f}{spread} | {_interval(resampled)} | {gain} | {each} | {mixed} |")


def few_labels(lines: Lines, fold: str) -> None:
    """Macro-F1 at 1, 5, 10 and 20 labels, with deviations over seeds."""
    print(f"\n| fold {fold}: labels a class | 1 | 5 | 10 | 20 |\n|---|---|---|---|---|")
    for (_, _, way), found in (item for item in lines.items() if item[0][:2] == (fold, "few labels")):
        table = np.array([one["means"] for one in found])
        spread = table.std(0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)
        cells = [
            f"{mean:.3f}" + ("" if np.isnan(sd) else f" ({sd:.3f})")
            for mean, sd in zip(table.mean(0), spread, strict=True)
        ]
        print(f"| {way} | {' | '.join(cells)} |")


def _interval(values: Any, *, signed: bool = False) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:+.3f} to {high:+.3f}" if signed else f"{low:.3f} to {high:.3f}"


def main() -> None:
    """Print the tables of every fold, and what all training took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    lines = read(parser.parse_args().paths)
    for fold in sorted({key[0] for key in lines}):
        transfers(lines, fold)
        few_labels(lines, fold)
        for one in lines.get((fold, "training", ""), []):
            print(f"seed {one['seed']}: {one['processor_s']:.0f} s of processor time, loss {one['last_loss']:.3f}")


if __name__ == "__main__":
    main()
