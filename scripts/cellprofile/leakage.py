"""Shows that no cell that is labelled in a fold was in its training: by hashes of counts, barcodes and neighbours.

Usage: python scripts/cellprofile/leakage.py [--folds A B C shipped] [--shared ../shared] [--json build/leakage.jsonl]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import numpy as np
from corpus import ONLY_EVALUATED, PARTED_BY, SETS
from folds import FOLDS, Fold

from scfm_hf.data.curation import leakage_report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def trained_on(fold: Fold, folder: Path) -> dict[Path, NDArray[np.bool_] | None]:
    """File -> its rows in training, None for all."""
    found: dict[Path, NDArray[np.bool_] | None] = {}
    for name in fold.trained_on:
        gone = [wanted for whole, _, wanted in (one.partition("@") for one in fold.left_out) if whole == name]
        found[_file(name, folder)] = ~np.any([_part(name, wanted, folder) for wanted in gone], 0) if gone else None
    return found


def labelled(fold: Fold, folder: Path) -> dict[Path, NDArray[np.bool_] | None]:
    """File -> its rows that are labelled by a transfer or by few labels, None for all."""
    found: dict[Path, NDArray[np.bool_] | None] = {}
    for one in sorted({query for _, query in fold.transfers} | set(fold.few_labels)):
        name, _, wanted = one.partition("@")
        path = _file(name, folder)
        if path not in found or not wanted:
            found[path] = _part(name, wanted, folder) if wanted and name not in fold.few_labels else None
    return found


def _file(name: str, folder: Path) -> Path:
    return folder / f"{(SETS | ONLY_EVALUATED)[name]}.h5ad"


def _part(name: str, wanted: str, folder: Path) -> NDArray[np.bool_]:
    obs = anndata.read_h5ad(_file(name, folder), backed="r").obs
    return obs[PARTED_BY[name]].astype(str).str.contains(wanted, regex=False).to_numpy()


def main(arguments: Iterable[str] | None = None) -> None:
    """Print a report a fold, and append it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", nargs="+", choices=sorted(FOLDS), default=sorted(FOLDS))
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--json", type=Path, default=Path("build/leakage.jsonl"))
    options = parser.parse_args(None if arguments is None else list(arguments))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name in options.folds:
        sides = [which(FOLDS[name], options.shared / "data") for which in (trained_on, labelled)]
        report = leakage_report(*sides)
        print(f"fold {name}: {report}\n", flush=True)
        with options.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fold": name, **report.to_dict()}, default=str) + "\n")


if __name__ == "__main__":
    main()
