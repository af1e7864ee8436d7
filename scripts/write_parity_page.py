"""Make the parity page of the documentation from the table that a run of ``tests/parity`` wrote.

Usage: python scripts/write_parity_page.py [build/parity/summary.md] [docs/parity.md]
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

INTRODUCTION = """# The originals' numbers

What the originals' own code gave on real cells, against what this library gives through `convert_checkpoint`,
`AutoTokenizer` and the Auto classes. `make parity` runs the comparison and writes this page; the line of every single
array is then in `build/parity/parity.md`.

A tolerance limits the difference over 1 + |expected value|. An array that no rule compares fails the run, unless the
rule table of the family (`tests/parity/families`) leaves it out with a reason; how many are is said below the table.

Machine: {machine}
"""


def main(summary: str = "build/parity/summary.md", page: str = "docs/parity.md") -> None:
    """Write the page."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    machine = f"{platform.machine()}, Python {platform.python_version()}, {libraries}."
    table = Path(summary).read_text(encoding="utf-8")
    Path(page).write_text(INTRODUCTION.format(machine=machine) + "\n" + table, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
