"""How fast a corpus becomes token shards, how large they are, and how fast they are read beside tokenising on the fly.

    python -P benchmarks/shards.py [--shared ../shared] [--cells 20000]

Real blood cells, resampled to ``--cells``, in four uncompressed .h5ad files; a rank tokenizer made of them in one pass
(2,048 tokens at most). Writing is timed with one and with two processes, their start included and, apart, without it.
CPU time is that of the calling process alone. Reading goes cell by cell through ``datasets`` (plain, shuffled) and
through load_corpus, in one process.
"""

# ruff: noqa: E402 - one thread, before NumPy is imported
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[0] = str(Path(__file__).parents[1])

import anndata
import datasets
import numpy as np

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.corpus_statistics import corpus_statistics
from scfm_hf.data.corpus_tokenizer import tokenizer_from_corpus
from scfm_hf.data.open_shards import open_shards
from scfm_hf.data.shards import tokenize_corpus


class Clock(NamedTuple):
    """Seconds by the clock, and of this process's CPU time."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def since(cls, start: Clock) -> Clock:
        return cls(time.perf_counter() - start.wall, time.process_time() - start.cpu)

    def without_cpu(self) -> Clock:
        """Where other processes did the work."""
        return self._replace(cpu=float("nan"))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cells", type=int, default=20_000)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.shared / "data" / "human_pbmc3k.h5ad", options.cells)


def measure(folder: Path, source: Path, n_cells: int) -> None:
    """Write the corpus, and time everything."""
    corpus = folder / "corpus"
    corpus.mkdir()
    cells = anndata.read_h5ad(source)
    drawn = np.random.default_rng(0).integers(0, cells.n_obs, n_cells)
    for number, rows in enumerate(np.array_split(drawn, 4)):
        part = anndata.AnnData(cells.X[rows], var=cells.var[[]])
        part.obs_names = [f"{number}-{row}" for row in range(len(rows))]
        part.write_h5ad(corpus / f"{number}.h5ad")
    stored = sum(path.stat().st_size for path in corpus.iterdir())
    print(f"{n_cells:,} cells, {cells.n_vars:,} genes, {stored / 1e6:,.0f} MB of .h5ad; {os.cpu_count()} cores")
    print(f"{'':45} {'cells/s':>10} {'cells/s of CPU':>10} {'tokens/s of CPU':>10}")
    started = Clock.now()
    sketch = find_spec("ddsketch") is not None
    statistics = corpus_statistics(corpus, accuracy=0.0025 if sketch else None, progress=False)
    name = f"statistics in one pass, {'sketch' if sketch else 'exact'}"
    report(name, n_cells, None, Clock.since(started))
    tokenizer = tokenizer_from_corpus(statistics)

    for workers in (1, 2):
        output = folder / f"shards-{workers}"
        started = Clock.now()
        manifest = tokenize_corpus(corpus, tokenizer, output, workers=workers, shard_size=2048, progress=False)
        taken = Clock.since(started)
        report(
            f"tokenise, {workers} processes", n_cells, manifest.n_tokens, taken if workers == 1 else taken.without_cpu()
        )
    again = Clock.now()
    shutil.rmtree(output)
    tokenize_corpus(corpus, tokenizer, output, workers=2, shard_size=2048, progress=False)
    report("tokenise, 2 processes, running already", n_cells, manifest.n_tokens, Clock.since(again).without_cpu())
    bits = 8 * manifest.n_bytes / manifest.n_tokens
    print(f"size: {manifest.n_bytes / 1e6:,.1f} MB of Parquet, {bits:.1f} bits a token")

    stream = open_shards(output, streaming=True, check="size")
    read("shards, in order", stream, manifest.n_tokens)
    read("shards, shuffled (buffer 8192)", stream.shuffle(seed=0, buffer_size=8192), manifest.n_tokens)
    whole = datasets.Dataset.from_parquet(
        [str(path) for path in sorted(output.glob("data/*.parquet"))], cache_dir=str(folder / "cache")
    )
    read("shards as Arrow, in order", whole, manifest.n_tokens)
    read("shards as Arrow, any order", whole.shuffle(seed=0), manifest.n_tokens)
    read("load_corpus, mixed, tokenised on the fly", load_corpus(corpus, tokenizer=tokenizer), manifest.n_tokens)


def read(name: str, cells: Any, n_tokens: int) -> None:
    """Time one pass over the cells."""
    started, n_cells = Clock.now(), 0
    for _ in cells:
        n_cells += 1
    report(f"read {name}", n_cells, n_tokens, Clock.since(started))


def report(name: str, n_cells: int, n_tokens: int | None, taken: Clock) -> None:
    """One line of the table."""
    tokens = "" if n_tokens is None else f"{n_tokens / taken.cpu / 1e6:8.2f} M"
    print(f"{name:45} {n_cells / taken.wall:10,.0f} {n_cells / taken.cpu:10,.0f} {tokens}", flush=True)


if __name__ == "__main__":
    main()
