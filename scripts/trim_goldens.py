"""Make tests/golden, the small copy of the golden numbers by which a bare clone tests parity.

    python scripts/trim_goldens.py ../shared/golden tests/golden --families geneformer scgpt

The copy has the layout of the whole set, so the same tests run on it. What it lacks:

- tokens past the first few of hidden states, logits and attentions (where these are no input of another array);
- arrays and variants that are named with --drop;
- counts of cells that no variant feeds, so that rows keep their numbers;
- files that no key of golden.json needs for a test (tables of downstream tasks, texts).
"""

from __future__ import annotations

import argparse
import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata
import h5py
import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

README = """# Golden numbers, trimmed

What the original code gives on real cells with small random weights in its own checkpoint layout, for {families}: a
part
of the whole set, in the same layout, so that a bare clone tests parity. Each `golden.json` names the original, its
version and its licence. `SCFM_HF_GOLDEN` names another set.

Made by

    {command}
"""
#: Axes of which the first positions may be stored alone; the rest is cut by whoever compares.
POSITION_AXES = ("token", "query")
#: Keys of golden.json that tell of files which are not copied, or are for people.
NOT_COPIED = ("stats", "notes", "preprocess_text", "seeds_text")


def main() -> None:
    """Read the command line and write the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the whole set")
    parser.add_argument("output", type=Path, help="folder to write; what is there is replaced")
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--drop", nargs="*", default=[], help="family/variant or family/variant/array, with wildcards")
    parser.add_argument("--tokens", type=int, default=12, help="positions to keep")
    parser.add_argument("--megabytes", type=float, default=6.0, help="most that the copy may take")
    arguments = parser.parse_args()
    new = arguments.output.with_name(f"{arguments.output.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    trim(arguments.source, new, families=arguments.families, drop=arguments.drop, n_tokens=arguments.tokens)
    (new / "README.md").write_text(README.format(families=", ".join(arguments.families), command=command(arguments)))
    size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file()) / 1e6
    if size > arguments.megabytes:
        parser.exit(
            1, f"The copy in {new} takes {size:.2f} MB, more than {arguments.megabytes} MB: drop or cut more.\n"
        )
    shutil.rmtree(arguments.output, ignore_errors=True)
    new.rename(arguments.output)
    print(f"{arguments.output}: {size:.2f} MB")


def command(arguments: argparse.Namespace) -> str:
    """The call that makes this copy again from a set of goldens beside the repository."""
    options = ["--families", *arguments.families, "--tokens", str(arguments.tokens)]
    drop = ["--drop", *(f"'{pattern}'" for pattern in arguments.drop)] if arguments.drop else []
    return " ".join(["python scripts/trim_goldens.py ../shared/golden tests/golden", *options, *drop])


def trim(source: Path, output: Path, *, families: list[str], drop: list[str], n_tokens: int) -> None:
    """Write the copy of some families."""
    fed: dict[str, set[int]] = {}
    for path in sorted(source.glob("*/*/golden.json")):
        name = path.parent.relative_to(source).as_posix()
        if path.parts[-3] in families and not any(fnmatchcase(name, pattern) for pattern in drop):
            dropped = [
                pattern.removeprefix(f"{name}/") for pattern in drop if fnmatchcase(name, pattern.rpartition("/")[0])
            ]
            description = trim_variant(path.parent, output / name, drop=dropped, n_tokens=n_tokens)
            for case in [description, *(description.get("cases") or {}).values()]:
                file, rows = case.get("input", description["input"]), case.get("rows", description["rows"])
                if file is not None:
                    fed.setdefault(file, set()).update(rows)
    for file, rows in fed.items():
        trim_cells(source / file, output / file, rows)


def trim_variant(folder: Path, output: Path, *, drop: list[str], n_tokens: int) -> dict[str, Any]:
    """Write one variant, and return its description."""
    description = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    values = load_file(folder / "expected.safetensors")
    described: dict[str, dict[str, Any]] = {}
    for name, array in description["arrays"].items():
        if not any(fnmatchcase(name, pattern.rpartition("/")[2]) for pattern in drop):
            described[name] = array
    needed = inputs_of_others(described)
    for name, array in described.items():
        if name not in needed:
            values[name] = cut_positions(values[name], array, n_tokens)
    description["arrays"] = described
    description = {key: value for key, value in description.items() if key not in NOT_COPIED}
    output.mkdir(parents=True)
    kept = {name: np.array(values[name], order="C") for name in described}
    save_file(kept, output / "expected.safetensors")
    (output / "golden.json").write_text(json.dumps(description, ensure_ascii=False, separators=(",", ":")) + "\n")
    copy_files(folder, output, description)
    return description


def inputs_of_others(arrays: dict[str, dict[str, Any]]) -> set[str]:
    """Arrays that another one refers to: these stay whole."""
    found: set[str] = set()
    for array in arrays.values():
        found.update(name for name in (array.get("inputs") or {}).values() if name is not None)
        found.update(array.get("keys") or ())
        found.update(array[key] for key in ("where", "tie_groups") if array.get(key))
    return found


def cut_positions(values: np.ndarray, array: dict[str, Any], n_tokens: int) -> np.ndarray:
    """The first positions of an array that holds more than one number a token; its description is changed to match."""
    axes = array.get("axis") or []
    cut = [number for number, axis in enumerate(axes) if axis in POSITION_AXES]
    if len(axes) < 3 or not cut or values.shape[cut[0]] <= n_tokens:
        return values
    values = np.take(values, range(n_tokens), axis=cut[0])
    if array.get("positions") is not None:
        array["positions"] = array["positions"][:n_tokens]
    array["shape"] = list(values.shape)
    return values


def copy_files(folder: Path, output: Path, description: dict[str, Any]) -> None:
    """The original's checkpoint and the side files."""
    if description.get("checkpoint"):
        shutil.copytree(
            folder / description["checkpoint"], output / description["checkpoint"], copy_function=shutil.copyfile
        )
    for file in (description.get("side_files") or {}).values():
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, output / file)


def trim_cells(source: Path, output: Path, rows: set[int]) -> None:
    """The cells without the counts of those that are never fed; all rows and genes stay."""
    adata = anndata.read_h5ad(source)
    fed = np.isin(np.arange(adata.n_obs), sorted(rows))
    counts = csr_matrix(adata.X)
    counts.data[~np.repeat(fed, np.diff(counts.indptr))] = 0
    counts.eliminate_zeros()
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        loose = Path(folder, "cells.h5ad")
        anndata.AnnData(counts, obs=adata.obs, var=adata.var).write_h5ad(loose)
        with h5py.File(loose) as read, h5py.File(output, "w") as written:
            copy_compressed(read, written)


def copy_compressed(read: h5py.Group, written: h5py.Group) -> None:
    """Copy a group with strings of a fixed length: those of any length, which anndata writes, are never compressed."""
    for key, value in read.attrs.items():
        written.attrs[key] = value
    for name, item in read.items():
        if isinstance(item, h5py.Group):
            copy_compressed(item, written.create_group(name))
            continue
        data = item[()]
        if h5py.check_string_dtype(item.dtype) and item.shape:
            encoded = np.char.encode(item.asstr()[()].astype(str), "utf-8")
            data = encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))
        how = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if item.shape and item.size else {}
        dataset = written.create_dataset(name, data=data, **how)
        for key, value in item.attrs.items():
            dataset.attrs[key] = value


if __name__ == "__main__":
    main()
