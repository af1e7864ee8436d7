"""What ``import scfm_hf`` costs beyond the Auto classes of transformers, and how large the environment is.

Usage: python benchmarks/import.py [--rounds 5]

Processor time of fresh processes, in turn; the least of all rounds counts.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

WAYS = {
    "transformers' Auto classes": "from transformers import AutoModel, AutoTokenizer",
    "the same and scfm_hf": "from transformers import AutoModel, AutoTokenizer; import scfm_hf",
    "scfm_hf alone": "import scfm_hf",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds + 1):
        for name, code in WAYS.items():
            least[name] = min(least[name], processor_seconds(code))
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, transformers {version('transformers')}")
    for name, seconds in least.items():
        print(f"{name:<30}{seconds:6.2f} s of processor time")
    more = least["the same and scfm_hf"] - least["transformers' Auto classes"]
    print(f"scfm_hf adds {more:.2f} s (promise: at most 0.5 s)")
    size = sum(file.stat().st_size for file in Path(sys.prefix).rglob("*") if file.is_file() and not file.is_symlink())
    print(f"environment {sys.prefix}: {size / 1e9:.2f} GB (promise for CPU: at most 2 GB)")


def processor_seconds(code: str) -> float:
    """User and system time of a fresh process that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
