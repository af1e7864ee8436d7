"""How fast an .h5ad file becomes a saved data set of tokens, beside the way of Geneformer's own tokenizer.

Usage: python benchmarks/dataset.py [--shared ../shared] [--cells 1000 4000] [--rounds 3]

Real cells, shallow (blood) and deep (cell lines), repeated to ``--cells``; the released vocabulary and medians of
Geneformer V1; one thread; processor time, the least of the rounds. Three ways:

- ours: ``CellTokenizer.to_dataset``, every check of the input included;
- stand-in: what the original is said to do. Chunks of 512 cells, one NumPy argsort a cell, a data set made of arrays, a
  row-wise ``Dataset.map`` that cuts to the context and notes the length, ``save_to_disk``. As in the original the
  mapped function holds the tokenizer with its dictionaries, which ``datasets`` pickles for its fingerprint;
- floor: reading the file and saving tokens that are already there. No tokenizer can be faster.

The original's own 580 (shallow) and 410 (deep) cells/s were measured elsewhere, with datasets 3.6, on 1,000 cells in a
process that had just started: about 1.5 s of them do not grow with the number of cells.
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
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer = released_tokenizer("geneformer-v1")
    libraries = f"datasets {version('datasets')}, numpy {np.__version__}"
    print(f"{platform.machine()}, Python {platform.python_version()}, {libraries}")
    for n_cells in options.cells:
        for name, place in CELLS.items():
            with tempfile.TemporaryDirectory() as folder:
                file = write_cells(options.shared / place, Path(folder) / "cells.h5ad", n_cells)
                seconds = least_seconds(file, tokenizer, Path(folder), options.rounds)
            speeds = {way: n_cells / least for way, least in seconds.items()}
            shown = ", ".join(f"{way} {speed:,.0f} cells/s" for way, speed in speeds.items())
            against = f"ours {speeds['ours'] / speeds['stand-in']:.1f} times the stand-in"
            limit = f"the floor {speeds['floor'] / speeds['stand-in']:.1f} times"
            print(f"{n_cells} {name} cells: {shown}; {against}, {limit}")
            print(f"    {speeds['ours'] / ORIGINAL[name]:.0f} times the original's {ORIGINAL[name]} cells/s elsewhere")


def least_seconds(file: Path, tokenizer, folder: Path, rounds: int) -> dict[str, float]:  # noqa: ANN001
    """Least processor seconds of each way over rounds in which they take turns; their tokens must agree."""
    least = dict.fromkeys(("ours", "stand-in", "floor"), float("inf"))
    for number in range(rounds):
        seconds, ours = measured(with_scfm_hf, file, tokenizer, folder / f"ours-{number}")
        least["ours"] = min(least["ours"], seconds)
        seconds, theirs = measured(row_by_row, file, tokenizer, folder / f"theirs-{number}")
        least["stand-in"] = min(least["stand-in"], seconds)
        seconds, _ = measured(read_and_save, file, datasets.Dataset(ours.data), folder / f"floor-{number}")
        least["floor"] = min(least["floor"], seconds)
        if [*ours["input_ids"]] != [*theirs["input_ids"]]:
            raise SystemExit(f"{file}: the two ways gave different tokens")
    return least


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


def read_and_save(file: Path, tokens: datasets.Dataset, folder: Path) -> None:
    """The floor: what any way must do."""
    anndata.read_h5ad(file)
    tokens.save_to_disk(str(folder))


class OriginalDictionaries:
    """What the original's tokenizer object holds: tokens, medians, gene names and the mapping of identifiers."""

    def __init__(self, tokenizer) -> None:  # noqa: ANN001
        self.tokens = dict(tokenizer.vocabulary.token_to_id)
        self.medians = dict(zip(self.tokens, tokenizer.statistics["median"].tolist(), strict=True))
        self.is_known = dict.fromkeys(self.tokens, True)
        self.mapping = {token: token for token in self.tokens}


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

    dictionaries = OriginalDictionaries(tokenizer)

    def cut(example):  # noqa: ANN001, ANN202
        assert dictionaries.tokens
        example["input_ids"] = example["input_ids"][:CONTEXT]
        example["length"] = len(example["input_ids"])
        return example

    dataset.map(cut, load_from_cache_file=False).save_to_disk(str(folder))


if __name__ == "__main__":
    main()
