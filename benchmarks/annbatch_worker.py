"""annbatch as a worker of ``stream.py``, run by a Python that has annbatch with zarrs (3.12 or newer).

The file of cells becomes annbatch's own shuffled store, once. Requests come by standard input, a line each; answers go
to standard output as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import anndata
import numpy as np
import zarr
from annbatch import DatasetCollection, Loader

BATCH, CHUNK, CHUNKS = 256, 32, 256


def main() -> None:
    """Answer requests until standard input ends."""
    warnings.filterwarnings("ignore")
    file, store, rows_file = map(Path, sys.argv[1:])
    if find_spec("zarrs"):
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    answers, sys.stdout = sys.stdout, sys.stderr
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = time.process_time()
    collection = DatasetCollection(store)
    collection.add_adatas([str(file)], shuffle=True, rng=np.random.default_rng(0))
    written = time.process_time() - start
    names = ("annbatch", "zarrs", "zarr", "anndata", "numpy") if find_spec("zarrs") else ("annbatch", "zarr", "anndata")
    told = f"{', '.join(f'{name} {version(name)}' for name in names)}, Python {platform.python_version()}"
    print(json.dumps({"versions": told, "seconds": written}), file=answers, flush=True)
    for _ in sys.stdin:
        loader = Loader(batch_size=BATCH, chunk_size=CHUNK, preload_nchunks=CHUNKS, shuffle=True, to=None)
        loader.use_collection(collection, load_adata=cells_of)
        start = time.process_time()
        rows = [np.asarray(batch["obs"]["row"]) for batch in loader]
        seconds = time.process_time() - start
        np.savez(rows_file, rows=np.concatenate(rows))
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


def cells_of(group: zarr.Group) -> anndata.AnnData:
    """The counts and where each cell stood in the file."""
    obs = anndata.io.read_elem(group["obs"])[["row"]]
    return anndata.AnnData(X=anndata.io.sparse_dataset(group["X"]), obs=obs)


if __name__ == "__main__":
    main()
