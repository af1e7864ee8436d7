"""Whether a stream costs the same memory for 10,000 and 1,000,000 cells, and the same time to go on at any depth.

Beside it the memory that ``corpus_statistics`` takes (medians by sketches, which need the extra ``curation``).

    python -P benchmarks/stream_depth.py [--shared ../shared] [--cells 1000000]

Real cells of a panel (THP-1 cells, 299 genes), repeated in one file without compression; each measurement is a process
of its own that loads the corpus, goes to a depth and reads 30,000 cells from there (or as many as there are).
"""

# ruff: noqa: E402 - one thread, before NumPy is imported
from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[0] = str(Path(__file__).parents[1])

import anndata
import h5py
import numpy as np
import pandas as pd

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.corpus_statistics import corpus_statistics

#: In the place of a depth: the statistics, not a stream.
STATISTICS = "statistics of all"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "DEPTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        file, depth = options.measure
        print(json.dumps(counted(Path(file)) if depth == STATISTICS else measured(Path(file), int(depth))))
        return
    print("| cells in the file | goes on at | seconds to the first batch | largest memory, MB |\n|---|---|---|---|")
    statistics = [STATISTICS] if find_spec("ddsketch") else []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells, depths in ((10_000, [1000]), (options.cells, [1000, options.cells - 30_000])):
            file = write_cells(options.shared, Path(folder) / f"{n_cells}.h5ad", n_cells)
            for depth in [*depths, *statistics]:
                run = [sys.executable, "-P", __file__, "--measure", str(file), str(depth)]
                found = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                place = depth if depth == STATISTICS else f"{depth:,}"
                print(f"| {n_cells:,} | {place} | {found['seconds']:.2f} | {found['megabytes']:,.0f} |", flush=True)


def write_cells(shared: Path, file: Path, n_cells: int) -> Path:
    """Repeat the cells, a copy at a time."""
    adata = anndata.read_h5ad(shared / "data" / "human_thp1_crispr_papalexi_299g.h5ad")
    empty = anndata.AnnData(adata.X[:0], var=adata.var)
    empty.write_h5ad(file)
    offsets = np.concatenate([[0], np.cumsum(np.tile(np.diff(adata.X.indptr), -(-n_cells // adata.n_obs)))])
    with h5py.File(file, "a") as store:
        for name, values in (("data", adata.X.data), ("indices", adata.X.indices)):
            del store[f"X/{name}"]
            stored = store["X"].create_dataset(name, (offsets[n_cells],), values.dtype, chunks=(20_640,))
            for start in range(0, int(offsets[n_cells]), len(values)):
                stored[start : start + len(values)] = values[: offsets[n_cells] - start]
        del store["X/indptr"], store["obs"]
        store["X/indptr"] = offsets[: n_cells + 1]
        store["X"].attrs["shape"] = (n_cells, adata.n_vars)
        obs = pd.DataFrame({"row": np.arange(n_cells)}, index=np.arange(n_cells).astype(str))
        anndata.io.write_elem(store, "obs", obs)
    return file


def measured(file: Path, depth: int) -> dict[str, float]:
    """CPU seconds from a loaded corpus to the first batch after a depth, and the largest memory of the process."""
    corpus = load_corpus(file, batch_size=256)
    state = corpus.state_dict(taken=depth)
    start = time.process_time()
    corpus.load_state_dict(state)
    batches = corpus.batches(256)
    next(batches)
    seconds = time.process_time() - start
    list(islice(batches, 117))
    return {"seconds": seconds, "megabytes": largest_memory()}


def counted(file: Path) -> dict[str, float]:
    """CPU seconds of the statistics of a corpus, and the largest memory of the process."""
    start = time.process_time()
    corpus_statistics(file, accuracy=0.0025, progress=False)
    return {"seconds": time.process_time() - start, "megabytes": largest_memory()}


def largest_memory() -> float:
    """Of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
