"""How fast counts become ranked tokens, beside the plain way, a peer and the floor.

    python benchmarks/tokenize.py [--shared ../shared] [--peer-python PATH]

Real cells, shallow (blood, about 560 genes a cell) and deep (cell lines, about 6,000), repeated to 1,000; the released
vocabulary and medians of Geneformer V1; one core, one thread. Each way runs once a round, rounds interleaved, and the
least CPU time counts, so that other work on the machine hits all alike. Every way must give the same tokens.

``--peer-python`` is a Python that has helical (``pip install helical``, Python 3.12): its own tokenizer then runs in a
process of its own, round by round with the others. Without it a stand-in written after the description of its way
takes its place and is labelled so.
"""

# ruff: noqa: E402 - the search path comes first
from __future__ import annotations

import sys
from pathlib import Path

# This file is named like a module of the standard library: its folder must not be searched, the repository must.
sys.path[0] = str(Path(__file__).parents[1])

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ["OMP_NUM_THREADS"] = "1"

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import scipy
from scipy.sparse import csr_array, save_npz

from scfm_hf.tokenization.ragged import Ragged, row_blocks
from scfm_hf.tokenization.rank import rank_genes

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_GENES = 2048
#: One run of a way: its CPU seconds and its tokens.
Way = Callable[[], tuple[float, Ragged | None]]


@dataclass(frozen=True)
class Cells:
    """Counts of some cells, the names and vocabulary ids (-1 where unknown) of their genes, and the medians by id."""

    counts: csr_array
    genes: NDArray[np.str_]
    gene_ids: NDArray[np.int64]
    medians: NDArray[np.float64]


def read_vocabulary(shared: Path) -> pd.DataFrame:
    """Tokens, ids and medians of Geneformer V1, bit-exact."""
    path = shared / "vocabularies" / "geneformer_v1" / "vocabulary.tsv.gz"
    options = {"quoting": 3, "keep_default_na": False, "na_values": {"median": [""]}, "float_precision": "round_trip"}
    return pd.read_csv(path, sep="\t", **options)


def read_cells(path: Path, gene_column: str | None, vocabulary: pd.DataFrame, n_cells: int) -> Cells:
    """Read cells and repeat them to a number."""
    adata = anndata.read_h5ad(path)
    genes = np.asarray(adata.var_names if gene_column is None else adata.var[gene_column], dtype=str)
    counts = csr_array(adata.X)[np.resize(np.arange(adata.n_obs), n_cells)]
    ids = dict(zip(vocabulary["token"], vocabulary["token_id"], strict=True))
    return Cells(counts, genes, np.array([ids.get(gene, -1) for gene in genes]), vocabulary["median"].to_numpy())


# --- the ways -------------------------------------------------------------------------------------------------------


def ours(cells: Cells) -> Ragged:
    """scfm_hf: totals and ranks."""
    return rank_genes(
        cells.counts, _totals(cells.counts), cells.medians, gene_ids=cells.gene_ids, max_genes=MAX_GENES
    ).gene_ids


def plain_loop(cells: Cells) -> Ragged:
    """What one would write first: NumPy, a cell at a time, with a stable sort."""
    counts, rows = cells.counts, []
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        values = counts.data[start:stop].astype(np.float64)
        ids = cells.gene_ids[counts.indices[start:stop]]
        total = values.sum()
        values, ids = values[ids >= 0], ids[ids >= 0]
        scores = values * (1 / total) * 10_000 * (1 / cells.medians[ids])
        rows.append(ids[np.argsort(-scores, kind="stable")][:MAX_GENES])
    return Ragged.from_rows(rows, np.int64)


def front_alone(cells: Cells) -> None:
    """The vectorised front: sum, keep the known genes, scale. No order, so no tokens: the floor."""
    counts, per_median = cells.counts, 1 / cells.medians
    totals = _totals(counts)
    for first, last in row_blocks(counts.indptr, 1 << 16):
        span = slice(counts.indptr[first], counts.indptr[last])
        lengths = np.diff(counts.indptr[first : last + 1])
        ids = cells.gene_ids[counts.indices[span]]
        known = ids >= 0
        values = counts.data[span][known].astype(np.float64)
        values *= np.repeat(1 / totals[first:last], lengths)[known]
        values *= 10_000
        values *= per_median[ids[known]]


def peer_stand_in(cells: Cells) -> Ragged:
    """helical's way as it is described: SciPy over chunks of 512 cells, then a row slice and an argsort a cell."""
    known = np.flatnonzero(cells.gene_ids >= 0)
    ids, medians = cells.gene_ids[known], cells.medians[cells.gene_ids[known]]
    totals, rows = _totals(cells.counts), []
    for first in range(0, cells.counts.shape[0], 512):
        chunk = cells.counts[first : first + 512][:, known]
        scaled = csr_array(chunk / totals[first : first + 512, None] * 10_000 / medians)
        for number in range(scaled.shape[0]):
            row = scaled[[number]]
            rows.append(ids[row.indices[np.argsort(-row.data)]][:MAX_GENES])
    return Ragged.from_rows(rows, np.int64)


def _totals(counts: csr_array) -> NDArray[np.float64]:
    return np.asarray(counts.sum(axis=1, dtype=np.float64))


class Peer:
    """helical's own tokenizer in another Python, one run each time it is asked."""

    def __init__(self, python: str, cells: Cells, vocabulary: pd.DataFrame) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        save_npz(folder / "counts.npz", cells.counts)
        genes = vocabulary.dropna(subset="median")
        tokens = dict(zip(vocabulary["token"], vocabulary["token_id"].tolist(), strict=True))
        medians = dict(zip(genes["token"], genes["median"], strict=True))
        for name, content in {"genes": cells.genes.tolist(), "tokens": tokens, "medians": medians}.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        worker = Path(__file__).with_name("helical_worker.py")
        self._process = subprocess.Popen(
            [python, "-P", str(worker), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = self._ask("versions")["name"]

    def __call__(self) -> tuple[float, Ragged]:
        """Run once in the other process."""
        seconds = self._ask("run")["seconds"]
        with np.load(Path(self._folder.name) / "tokens.npz") as tokens:
            ranked = Ragged.from_lengths(tokens["values"].astype(np.int64), tokens["lengths"])
        return seconds, ranked.head(MAX_GENES)

    def _ask(self, request: str) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the other process."""
        self._process.communicate()
        self._folder.cleanup()


# --- the comparison -------------------------------------------------------------------------------------------------


def timed(way: Callable[[Cells], Ragged | None], cells: Cells) -> Way:
    """Make a way of a function: its CPU time in this process, and its tokens."""

    def run() -> tuple[float, Ragged | None]:
        start = time.process_time()
        tokens = way(cells)
        return time.process_time() - start, tokens

    return run


def least_times(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each way over interleaved rounds.

    Raises
    ------
    SystemExit
        If two ways give different tokens.
    """
    least = dict.fromkeys(ways, float("inf"))
    first: dict[str, Ragged] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, tokens = way()
            least[name] = min(least[name], seconds)
            if tokens is not None:
                first.setdefault(name, tokens)
    reference, expected = next(iter(first.items()))
    for name, tokens in first.items():
        if tokens != expected:
            different = sum(not np.array_equal(tokens.row(i), expected.row(i)) for i in range(len(expected)))
            raise SystemExit(f"{name} and {reference} give different tokens in {different} of {len(expected)} cells.")
    return least


def compare(
    title: str, cells: Cells, vocabulary: pd.DataFrame, *, rounds: int, peer_python: str | None
) -> dict[str, float]:
    """Run all ways on some cells and print a table; cells/s by way."""
    n_cells = cells.counts.shape[0]
    peer = Peer(peer_python, cells, vocabulary) if peer_python else None
    peer_name = peer.name if peer else "stand-in of helical's way (helical not installed)"
    ways: dict[str, Way] = {
        "scfm_hf": timed(ours, cells),
        "plain per-cell NumPy loop": timed(plain_loop, cells),
        peer_name: peer or timed(peer_stand_in, cells),
        "front alone (floor, no tokens)": timed(front_alone, cells),
    }
    rates = {name: n_cells / seconds for name, seconds in least_times(ways, rounds).items()}
    if peer:
        peer.close()
    depth = cells.counts.nnz / n_cells
    print(f"\n{title}: {n_cells} cells, {depth:,.0f} genes a cell; CSR to at most {MAX_GENES} tokens\n")
    print("| way | cells/s | scfm_hf is |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rates['scfm_hf'] / rate:.2f} x |")
    print("\nTokens: equal in all cells.")
    return rates


def main() -> None:
    """Print the machine, then one table a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"{_processor()}, one core; {versions}")
    vocabulary = read_vocabulary(options.shared)
    files = options.shared / "golden" / "cells"
    for title, file, column in (("shallow", "human_pbmc.h5ad", "ensembl_id"), ("deep", "human_lines.h5ad", None)):
        cells = read_cells(files / file, column, vocabulary, options.cells)
        compare(title, cells, vocabulary, rounds=options.rounds, peer_python=options.peer_python)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in names if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
