"""How fast an .h5ad file becomes a saved data set of tokens, beside the way of Geneformer's own tokenizer.

Usage: python benchmarks/dataset.py [--shared ../shared] [--cells 4000] [--rounds 3]

Real cells, shallow (blood) and deep (cell lines), repeated to ``--cells``; the released vocabulary and medians of
Geneformer V1; one thread. The stand-in does what the original is said to do: chunks of 512 cells, one NumPy argsort
a cell, a data set made of arrays, a row-wise ``Dataset.map`` that cuts to the context and notes the length,
``save_to_disk``. With a current ``datasets`` it is several times as fast as the original's own 580 (shallow) and 410
(deep) cells/s, which were measured with datasets 3.6 on another machine; both comparisons are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
# The folder of this file holds names of the standard library: it must not be searched, the repository must.
sys.path[0] = str(Path(__file__).parents[1])

import anndata  # noqa: E402
import datasets  # noqa: E402
import numpy as np  # noqa: E402

import scfm_hf  # noqa: E402, F401
from scfm_hf.models.released import released_tokenizer  # noqa: E402

CELLS = {"shallow": "data/human_pbmc3k.h5ad", "deep": "data/human_lung_lines_mixology.h5ad"}
#: Cells/s of the original itself, measured elsewhere with datasets 3.6.
ORIGINAL = {"shallow": 580, "deep": 410}
CONTEXT = 2048


def main() -> None:
    """Measure both ways in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer = released_tokenizer("geneformer-v1")
    libraries = f"datasets {version('datasets')}, numpy {np.__version__}"
    print(f"{platform.machine()}, Python {platform.python_version()}, {libraries}")
    for name, place in CELLS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = write_cells(options.shared / place, Path(folder) / "cells.h5ad", options.cells)
            least = {"ours": float("inf"), "stand-in": float("inf")}
            for number in range(options.rounds):
                seconds, ours = measured(with_scfm_hf, file, tokenizer, Path(folder) / f"ours-{number}")
                least["ours"] = min(least["ours"], seconds)
                seconds, theirs = measured(row_by_row, file, tokenizer, Path(folder) / f"theirs-{number}")
                least["stand-in"] = min(least["stand-in"], seconds)
            if [*ours["input_ids"]] != [*theirs["input_ids"]]:
                raise SystemExit(f"{name}: the two ways gave different tokens")
        speeds = {way: options.cells / seconds for way, seconds in least.items()}
        shown = ", ".join(f"{way} {speed:,.0f} cells/s" for way, speed in speeds.items())
        print(f"{name}: {shown}; {speeds['ours'] / speeds['stand-in']:.1f} times the stand-in in this run")
        print(f"{name}: {speeds['ours'] / ORIGINAL[name]:.0f} times the original's {ORIGINAL[name]} cells/s elsewhere")


def write_cells(source: Path, target: Path, n_cells: int) -> Path:
    """Real cells, repeated."""
    adata = anndata.read_h5ad(source)
    repeated = adata[np.arange(n_cells) % adata.n_obs].copy()
    repeated.obs_names = [f"cell{number}" for number in range(n_cells)]
    if "ensembl_id" in repeated.var:
        known = ~repeated.var["ensembl_id"].astype(str).duplicated().to_numpy()
        repeated = repeated[:, known].copy()
        repeated.var_names = repeated.var["ensembl_id"].astype(str)
    repeated.write_h5ad(target)
    return target


def measured(way, file: Path, tokenizer, folder: Path):  # noqa: ANN001, ANN201
    """Processor seconds of a way, and the data set that it saved."""
    start = time.process_time()
    way(file, tokenizer, folder)
    seconds = time.process_time() - start
    return seconds, datasets.load_from_disk(str(folder))


def with_scfm_hf(file: Path, tokenizer, folder: Path) -> None:  # noqa: ANN001
    """The library's way."""
    tokenizer.to_dataset(anndata.read_h5ad(file), gene_column="var_names").save_to_disk(str(folder))


def row_by_row(file: Path, tokenizer, folder: Path) -> None:  # noqa: ANN001
    """The way of the original, as described."""
    adata = anndata.read_h5ad(file)
    ids = np.array([tokenizer.vocabulary.token_to_id.get(name, -1) for name in adata.var_names])
    known = np.flatnonzero(ids >= 0)
    medians = tokenizer.statistics["median"][ids[known]]
    totals = np.asarray(adata.X.sum(1)).ravel().astype(np.float64)
    cells = []
    for start in range(0, adata.n_obs, 512):
        chunk = adata.X[start : start + 512][:, known].astype(np.float64)
        chunk = chunk.multiply(1 / totals[start : start + 512, None]).multiply(10_000)
        chunk = chunk.multiply(1 / medians[None]).tocsr()
        for row in range(chunk.shape[0]):
            values = chunk.data[chunk.indptr[row] : chunk.indptr[row + 1]]
            genes = chunk.indices[chunk.indptr[row] : chunk.indptr[row + 1]]
            cells.append(ids[known][genes[np.argsort(-values)]])
    dataset = datasets.Dataset.from_dict({"input_ids": cells})

    def cut(example):  # noqa: ANN001, ANN202
        example["input_ids"] = example["input_ids"][:CONTEXT]
        example["length"] = len(example["input_ids"])
        return example

    dataset.map(cut, load_from_cache_file=False).save_to_disk(str(folder))


if __name__ == "__main__":
    main()
