"""How fast shuffled cells come from one .h5ad, beside the floor, the ceiling and the loaders of others.

    python -P benchmarks/stream.py [--shared ../shared] [--cells 50000 200000] [--rounds 3] [--file gzip]
        [--annbatch-python PYTHON]

Real blood cells, resampled to ``--cells``, as CSR in one file without compression and in one with gzip; batches of 256
as flat arrays, one process, one core. Each way goes once through the file a round, rounds interleaved, and the least
CPU time counts (reading from the page cache is CPU time), so that other work on the machine hits all alike. Ways that
are slower than 10,000 cells/s take part in the first round only.

Quality is the mean entropy, in bits, of the block of origin (256 rows of the file) and of the study (eighths of the
file) in a batch. scDataset and ``datasets`` run where they are installed, annbatch in a Python of its own, 3.12 or
newer, that ``--annbatch-python`` names: from its own shuffled store, which ``load_corpus`` then reads as well.
"""

# ruff: noqa: E402 - one thread, before NumPy is imported
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[0] = str(Path(__file__).parents[1])

import anndata
import h5py
import numpy as np
from scipy import sparse

from scfm_hf.data.corpus import load_corpus

BATCH, BLOCK, POOL, STUDIES = 256, 64, 8192, 8
#: Cells/s below which a way runs once.
SLOW = 10_000
#: A pass over a file: the rows of each batch, where a way can tell.
Way = Callable[[], Iterator[np.ndarray | None]]


def main() -> None:
    """Measure all ways on both files and print a table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", choices=("uncompressed", "gzip", "both"), default="both")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--annbatch-python", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    names = ("numpy", "h5py", "anndata", "scdataset", "datasets", "deflate")
    print(
        f"{_processor()}, one core; Python {platform.python_version()}; {', '.join(filter(None, map(_version, names)))}"
    )
    for n_cells in options.cells:
        for name in ("uncompressed", "gzip") if options.file == "both" else (options.file,):
            with tempfile.TemporaryDirectory() as folder:
                file = resampled(options.shared, Path(folder), n_cells, name)
                measure(file, n_cells, options)
    print(f"\nLargest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def resampled(shared: Path, folder: Path, n_cells: int, name: str) -> Path:
    """Write real cells, drawn with replacement; ``obs["row"]`` is where each stands."""
    adata = anndata.read_h5ad(shared / "data" / "human_pbmc3k.h5ad")[:2000]
    drawn = adata[np.random.default_rng(0).integers(0, adata.n_obs, n_cells)].copy()
    drawn.obs_names = [f"cell{row}" for row in range(n_cells)]
    drawn.obs["row"] = np.arange(n_cells)
    file = folder / f"{name}.h5ad"
    drawn.write_h5ad(file, compression="gzip" if name == "gzip" else None)
    genes, size = drawn.X.nnz / n_cells, file.stat().st_size / 1e6
    print(f"\n{file.name}: {n_cells:,} cells, {genes:,.0f} genes a cell, {size:,.0f} MB\n")
    return file


def measure(file: Path, n_cells: int, options: argparse.Namespace) -> None:
    """Run every way and print cells/s, entropies, and the share of the ceiling."""
    ways: dict[str, Way] = {
        "floor: 256-row reads in order": partial(in_order, file, n_cells),
        f"ceiling: bare shuffle, blocks of {BLOCK}, pool {POOL}": partial(bare_shuffle, file, n_cells),
        "load_corpus, batches": partial(ours, file),
        "load_corpus, a dictionary a cell": partial(ours_by_cell, file),
        "load_corpus, batches, genes in another order": partial(ours, file, reordered=True),
    }
    if not options.without_peers:
        ways |= peer_ways(file, n_cells)
    worker = Annbatch(options.annbatch_python, file) if options.annbatch_python else None
    if worker:
        ways["annbatch, shuffled store, shuffled chunks"] = worker.batches
        ways["load_corpus, batches, from annbatch's store"] = partial(ours, worker.store)
    least = dict.fromkeys(ways, float("inf"))
    qualities: dict[str, tuple[float, float]] = {"in a random order": entropies(in_random_order(n_cells), n_cells)}
    for _ in range(options.rounds):
        for name, way in ways.items():
            if np.inf > least[name] > 1 / SLOW:
                continue
            batches = way()  # opening the file is not counted
            start = time.process_time()
            rows = list(batches)
            seconds = worker.seconds if worker and way == worker.batches else time.process_time() - start
            least[name] = min(least[name], seconds / n_cells)
            qualities[name] = entropies(rows, n_cells)
    rates = {name: 1 / seconds for name, seconds in least.items()}
    ceiling = next(rate for name, rate in rates.items() if name.startswith("ceiling"))
    print("| way | cells/s | of the ceiling | entropy of blocks | of studies |\n|---|---|---|---|---|")
    for name, (blocks, studies) in qualities.items():
        speed = f"{rates[name]:,.0f} | {rates[name] / ceiling:.0%}" if name in rates else "|"
        print(f"| {name} | {speed} | {blocks:.2f} | {studies:.2f} |", flush=True)
    if worker:
        worker.close()


def entropies(batches: list[np.ndarray | None], n_cells: int) -> tuple[float, float]:
    """Mean entropies in bits of the block and of the study of origin in full batches."""
    full = [rows for rows in batches if rows is not None and len(rows) == BATCH]
    return entropy([rows // BATCH for rows in full]), entropy([rows * STUDIES // n_cells for rows in full])


def entropy(batches: list[np.ndarray]) -> float:
    """Mean entropy in bits of what the cells of a batch come from."""
    shares = [np.bincount(origins) / BATCH for origins in batches]
    bits = [-(share[share > 0] * np.log2(share[share > 0])).sum() for share in shares]
    return float(np.mean(bits)) if bits else float("nan")


def in_random_order(n_cells: int) -> list[np.ndarray | None]:
    """Batches of a full shuffle."""
    order = np.random.default_rng(0).permutation(n_cells)
    return [order[first : first + BATCH] for first in range(0, n_cells, BATCH)]


# --- bare reading ---


def in_order(file: Path, n_cells: int) -> Iterator[np.ndarray]:
    """Read the file from its first to its last row."""
    with h5py.File(file) as store:
        values, columns, offsets = store["X/data"], store["X/indices"], store["X/indptr"][:]
        for start in range(0, n_cells, BATCH):
            stop = min(start + BATCH, n_cells)
            span = slice(offsets[start], offsets[stop])
            _ = values[span], columns[span], offsets[start : stop + 1] - offsets[start]
            yield np.arange(start, stop)


def bare_shuffle(file: Path, n_cells: int) -> Iterator[np.ndarray]:
    """Read blocks in a random order into a pool, and take its rows in a random order: no checks, no genes, no state."""
    random = np.random.default_rng(0)
    with h5py.File(file) as store:
        values, columns, offsets = store["X/data"], store["X/indices"], store["X/indptr"][:]
        n_genes = store["X"].attrs["shape"][1]
        starts = random.permutation(np.arange(0, n_cells, BLOCK))
        for group in np.array_split(starts, max(1, round(n_cells / POOL))):
            read = [(start, min(start + BLOCK, n_cells)) for start in np.sort(group).tolist()]
            spans = [slice(offsets[start], offsets[stop]) for start, stop in read]
            rows = np.concatenate([np.arange(start, stop) for start, stop in read])
            lengths = offsets[rows + 1] - offsets[rows]
            flat = np.concatenate([values[span] for span in spans]), np.concatenate([columns[span] for span in spans])
            pool = sparse.csr_array((*flat, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(rows), n_genes))
            order = random.permutation(len(rows))
            for first in range(0, len(rows), BATCH):
                taken = order[first : first + BATCH]
                _ = pool[taken]
                yield rows[taken]


# --- this library ---


def ours(file: Path, *, reordered: bool = False) -> Iterator[np.ndarray]:
    """Batches of flat arrays, checked and over a vocabulary; ``reordered``: one in another order than the file."""
    stream = _corpus(file, reordered=reordered)
    return (batch["row"] for batch in stream.batches(BATCH))


def ours_by_cell(file: Path) -> Iterator[np.ndarray]:
    """Dictionaries, as a torch DataLoader takes them."""
    stream = iter(_corpus(file))
    return (np.array([cell["row"] for cell in taken]) for taken in iter(lambda: list(islice(stream, BATCH)), []))


def _corpus(file: Path, *, reordered: bool = False):  # noqa: ANN202
    from scfm_hf.genes import GeneVocabulary

    if file.is_dir():
        import zarr

        names, file = anndata.io.read_elem(zarr.open_group(file)["dataset_0/var"]).index.tolist(), file / "dataset_0"
    else:
        with h5py.File(file) as store:
            names = anndata.io.read_elem(store["var"]).index.tolist()
    names = np.random.default_rng(0).permutation(names).tolist() if reordered else names
    vocabulary = GeneVocabulary(names, id_kind="symbol", species=("human",))
    return load_corpus(file, vocabulary=vocabulary, gene_column="var_names", columns=["row"])


# --- others ---


def peer_ways(file: Path, n_cells: int) -> dict[str, Way]:
    """The loaders that are installed."""
    ways: dict[str, Way] = {}
    if _version("scdataset"):
        ways[f"scDataset, blocks of {BLOCK}, fetch 32 x 256 (CSR kept)"] = partial(sc_dataset, file)
    ways["AnnLoader, in order"] = partial(ann_loader, file, shuffle=False)
    ways["AnnLoader, shuffled"] = partial(ann_loader, file, shuffle=True)
    parquet = write_parquet(file, n_cells)
    ways["datasets, Parquet stream in order (arrow)"] = partial(parquet_stream, parquet, buffer=0)
    ways[f"datasets, Parquet stream, shuffle buffer {POOL}"] = partial(parquet_stream, parquet, buffer=POOL)
    return ways


def sc_dataset(file: Path) -> Iterator[np.ndarray]:
    """scDataset over the CSR matrix on disk, which a wrapper keeps sparse."""
    from scdataset import BlockShuffling, scDataset

    class Cells:
        def __init__(self) -> None:
            self.matrix = anndata.io.sparse_dataset(h5py.File(file)["X"])

        def __len__(self) -> int:
            return self.matrix.shape[0]

        def __getitem__(self, rows):  # noqa: ANN001, ANN204
            return _Fetched(self.matrix[rows], np.asarray(rows))

    cells = scDataset(Cells(), BlockShuffling(block_size=BLOCK), batch_size=BATCH, fetch_factor=32)
    return (batch.rows for batch in cells)


class _Fetched:
    def __init__(self, matrix, rows: np.ndarray) -> None:  # noqa: ANN001
        self.matrix, self.rows = matrix, rows

    def __getitem__(self, index):  # noqa: ANN001, ANN204
        return _Fetched(self.matrix[index], self.rows[index])

    def __len__(self) -> int:
        return len(self.rows)


def ann_loader(file: Path, *, shuffle: bool) -> Iterator[np.ndarray]:
    """The loader that anndata has had, over a backed file."""
    from anndata.experimental import AnnLoader

    loader = AnnLoader(anndata.read_h5ad(file, backed="r"), batch_size=BATCH, shuffle=shuffle)
    return ((batch.X, np.asarray(batch.obs["row"]).astype(int))[1] for batch in loader)


def write_parquet(file: Path, n_cells: int) -> Path:
    """The same cells as Parquet, a list of genes and one of counts a cell."""
    import pyarrow as pa
    from pyarrow import parquet

    target = file.with_suffix(".parquet")
    with h5py.File(file) as store:
        offsets = pa.array(store["X/indptr"][:].astype(np.int64))
        lists = [
            pa.LargeListArray.from_arrays(offsets, pa.array(store[f"X/{name}"][:])) for name in ("indices", "data")
        ]
    table = pa.table({"gene_ids": lists[0], "counts": lists[1], "row": pa.array(np.arange(n_cells))})
    parquet.write_table(table, target, row_group_size=1000)
    return target


def parquet_stream(file: Path, *, buffer: int) -> Iterator[np.ndarray]:
    """``datasets`` in streaming mode, arrow format; the five seconds of sleep of a shuffled one are no CPU time."""
    import datasets

    stream = datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True).with_format("arrow")
    if buffer:
        stream = stream.shuffle(seed=0, buffer_size=buffer)
    return (batch["row"].to_numpy() for batch in stream.iter(batch_size=BATCH))


class Annbatch:
    """annbatch in a Python of its own, which says its own CPU time."""

    def __init__(self, python: Path, file: Path) -> None:
        self.store, self._rows = file.with_name(f"{file.stem}.zarr"), file.with_name(f"{file.stem}.npz")
        command = [python, "-P", Path(__file__).with_name("annbatch_worker.py"), file, self.store, self._rows]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen([*map(str, command)], text=True, env=environment, **pipes)
        told = self._answer()
        print(f"{told['versions']}; its store took {told['seconds']:.1f} s to write\n")

    def batches(self) -> Iterator[np.ndarray]:
        """One pass."""
        print("pass", file=self._process.stdin, flush=True)
        self.seconds: float = self._answer()["seconds"]
        with np.load(self._rows) as saved:
            rows = saved["rows"]
        return iter([rows[first : first + BATCH] for first in range(0, len(rows), BATCH)])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("annbatch's process ended: run benchmarks/annbatch_worker.py by hand to see why.")
        return json.loads(line)


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
