"""The parity table: what the run found, for machines, for readers, and condensed for the documentation."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from parity.runner import Result


def write_tables(results: Iterable[Result], folder: Path) -> None:
    """Write ``parity.json``, ``parity.md`` (one line an array) and ``summary.md`` (one line a family and section)."""
    ordered = sorted(results, key=lambda result: (result.family, result.variant, result.array, result.weights or ""))
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps([asdict(result) for result in ordered], indent=1)
    (folder / "parity.json").write_text(content + "\n", encoding="utf-8")
    (folder / "parity.md").write_text(full_table(ordered), encoding="utf-8")
    (folder / "summary.md").write_text(condensed_table(ordered), encoding="utf-8")


def full_table(results: Sequence[Result]) -> str:
    """Family x variant x array in Markdown."""
    lines = [
        "| family | variant | array | role | result | largest difference | tolerance | remark |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        by = f" (weights `{result.weights}`)" if result.weights not in (None, "default") else ""
        difference = "" if result.difference is None else f"{result.difference:.1e}"
        cells = [result.family, result.variant, f"`{result.array}`{by}", result.role, result.status, difference]
        lines.append("| " + " | ".join([*cells, f"{result.tolerance:g}", result.remark.replace("|", "\\|")]) + " |")
    return "\n".join(lines) + "\n"


def condensed_table(results: Sequence[Result]) -> str:
    """Family x section in Markdown: how many arrays are equal, and the largest absolute difference among them.

    The tolerance limits the difference over 1 + |expected|, which stands beside it: losses may be thousands.
    """
    by_section: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        by_section[result.family, result.section].append(result)
    lines = [
        "| family | part | arrays | within tolerance | largest difference | over 1 + expected | tolerance |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    left_out: list[str] = []
    for (family, section), found in by_section.items():
        compared = [result for result in found if result.difference is not None]
        if not section:
            left_out.append(f"- {family}: {sum(result.status == 'left out' for result in found)} arrays left out")
        elif compared:
            equal = sum(result.status == "equal" for result in found)
            difference = max(result.difference or 0.0 for result in compared)
            scaled = max(result.scaled or 0.0 for result in compared)
            tolerances = sorted({result.tolerance for result in found})
            shown = " to ".join(dict.fromkeys(f"{tolerance:g}" for tolerance in (tolerances[0], tolerances[-1])))
            counted = f"{len(found)} | {equal} | {difference:.1e} | {scaled:.1e}"
            lines.append(f"| {family} | {section} | {counted} | {shown} |")
        else:
            lines.append(f"| {family} | {section} | {len(found)} | 0 | | | |")
    return "\n".join([*lines, *([""] if left_out else []), *left_out]) + "\n"
