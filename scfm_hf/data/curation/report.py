"""A page with numbers and plots: what was kept, what was flagged, and why."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.curation.curation import FLAGS
from scfm_hf.errors import MissingExtraError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from scfm_hf.data.curation.curation import Curation

_MOST_PAIRS = 20
_PLOTTED = {
    "n_counts": ("Counts of a cell", True),
    "n_genes": ("Genes of a cell", True),
    "mitochondrial_share": ("Share of mitochondrial counts", False),
    "doublet_score": ("Doublet score (Scrublet)", False),
    "ambient_share": ("Share of ambient RNA (DecontX)", False),
}


def write_report(curation: Curation, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.md`` and its plots into a folder.

    Parameters
    ----------
    curation
        What to report.
    folder
        Made if it is not there.

    Returns
    -------
    The page.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(curation, folder)
    page = folder / "report.md"
    page.write_text("\n\n".join([*_text(curation), *plots]) + "\n", encoding="utf-8")
    return page


def _text(curation: Curation) -> Iterable[str]:
    cells, summary = curation.cells, curation.summary()
    total = summary.loc["all"]
    yield "# Curation"
    yield (
        f"{total['n_cells']:,} cells in {len(curation.files):,} files, of which {total['kept']:,} have no flag. "
        "Nothing was dropped: flags are columns, and dropping cells by them is a step of its own."
    )
    yield "## Flags"
    lines = [
        [name, meaning, f"{total[name]:,}", f"{total[name] / max(total['n_cells'], 1):.1%}"]
        for name, meaning in FLAGS.items()
    ]
    yield _markdown(["flag", "meaning", "cells", "share"], lines)
    judged = {name: int(cells[name].notna().sum()) for name in ("doublet_score", "ambient_share")}
    yield (
        f"Doublets were judged for {judged['doublet_score']:,} cells, ambient RNA for {judged['ambient_share']:,}. "
        f"{int((cells['hash'] == '').sum()):,} cells have too few counts for a hash."
    )
    yield "## Files"
    names = list(summary.columns)
    table = [[_short(str(file)), *(f"{value:,}" for value in line)] for file, line in summary.iterrows()]
    yield _markdown(["file", *names], table)
    if curation.skipped:
        yield "## Skipped\n\n" + "\n".join(f"- {reason}" for reason in curation.skipped.values())
    yield "## Cells that are one cell"
    yield from _copies(curation)
    yield "## Settings"
    yield "\n".join(f"- {name}: {value}" for name, value in curation.options.items())


def _copies(curation: Curation) -> Iterable[str]:
    pairs = curation.pairs
    if pairs.empty:
        yield "None was found."
        return
    grouped = pairs.groupby(["file_a", "file_b", "kind", "found_by"]).agg(
        pairs=("cosine", "size"), cosine=("cosine", "min"), difference=("difference", "max")
    )
    grouped = grouped.sort_values("pairs", ascending=False).reset_index()
    lines = [
        [_short(line.file_a), _short(line.file_b), line.kind, line.found_by, f"{line.pairs:,}"]
        + [f"{line.cosine:.3f}", f"{line.difference:.3f}"]
        for line in grouped.head(_MOST_PAIRS).itertuples()
    ]
    yield _markdown(["file", "file", "kind", "found by", "pairs", "least cosine", "greatest difference"], lines)
    if len(grouped) > _MOST_PAIRS:
        yield f"And {len(grouped) - _MOST_PAIRS:,} more lines; all pairs are in pairs.parquet."


def _plots(curation: Curation, folder: Path) -> list[str]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    made = ["## Plots"]
    for column, (title, logarithmic) in _PLOTTED.items():
        if not curation.cells[column].notna().any():
            continue
        figure = Figure(figsize=(8, 0.3 * len(curation.files) + 1.5), layout="constrained")
        _boxes(figure.subplots(), curation.cells, column, title, logarithmic)
        figure.savefig(folder / f"{column}.png", dpi=120)
        made.append(f"![{title}]({column}.png)")
    figure = Figure(figsize=(8, 0.3 * len(curation.files) + 1.5), layout="constrained")
    _flag_shares(figure.subplots(), curation.summary().drop(index="all"))
    figure.savefig(folder / "flags.png", dpi=120)
    made.append("![Share of the cells that have each flag](flags.png)")
    return made


def _boxes(axes: Axes, cells: pd.DataFrame, column: str, title: str, logarithmic: bool) -> None:
    """One box a file."""
    groups = {file: values.dropna().to_numpy() for file, values in cells.groupby("file", sort=False)[column]}
    values: Sequence[Any] = [np.maximum(one, 1) if logarithmic else one for one in groups.values()]
    axes.boxplot(values, orientation="horizontal", sym=".", flierprops={"markersize": 2})
    axes.set_yticks(range(1, len(groups) + 1), [_short(str(file)) for file in groups])
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.invert_yaxis()


def _flag_shares(axes: Axes, summary: pd.DataFrame) -> None:
    """How large a share of each file has each flag, as shades."""
    shares = summary[list(FLAGS)].div(summary["n_cells"].clip(lower=1), axis=0).to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(0.2, float(shares.max(initial=0))), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share:
            axes.text(column, row, f"{share:.1%}", ha="center", va="center", fontsize=6)
    axes.set_yticks(range(len(summary)), [_short(str(file)) for file in summary.index])
    axes.set_xticks(range(len(FLAGS)), list(FLAGS), rotation=40, ha="right")
    axes.set_title("Share of the cells that have each flag")


def _markdown(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join("| " + " | ".join(str(value) for value in row) + " |" for row in rows)


def _short(file: str) -> str:
    return PurePosixPath(file.rstrip("/")).name
