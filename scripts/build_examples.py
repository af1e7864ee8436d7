"""Build the example cells that ship from the labelled data sets that they are copies of.

Usage: python scripts/build_examples.py FOLDER_OF_DATA_SETS
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import anndata

TARGET = Path(__file__).parents[1] / "scfm_hf" / "data" / "examples"

#: Name -> file of the data sets, and what has to be said about it.
EXAMPLES = {
    "pbmc3k": {
        "file": "human_pbmc3k.h5ad",
        "title": "2,700 blood cells of a healthy donor, with the cell types of the Seurat tutorial",
        "source": '10x Genomics, "3k PBMCs from a Healthy Donor" (2016); cell types as in zdebruine/singlet @7ce199e2',
        "licence": "CC BY 4.0 (10x Genomics)",
        "citation": "Zheng et al., Massively parallel digital transcriptional profiling of single cells, "
        "Nature Communications 8:14049 (2017)",
        "species": "human",
        "labels": "cell_type",
    },
}


def main() -> None:
    """Write each example and the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_sets", type=Path)
    folder = parser.parse_args().data_sets
    described = {}
    for name, entry in EXAMPLES.items():
        target = TARGET / f"{name}.h5ad"
        shutil.copyfile(folder / entry["file"], target)
        adata = anndata.read_h5ad(target)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        described[name] = {key: value for key, value in entry.items() if key != "file"} | {"sha256": digest}
        print(f"{name}: {adata.n_obs} cells, {adata.n_vars} genes, {target.stat().st_size / 1e6:.1f} MB")
    (TARGET / "examples.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
