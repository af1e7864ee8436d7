"""Cut the few real cells under tests/data from the data sets that they come from (NOTICE names them and their terms).

Usage: python scripts/cut_test_cells.py FOLDER_OF_DATA_SETS
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

TARGET = Path(__file__).parents[1] / "tests" / "data"

#: Name of the cut -> source file, column of labels, columns of obs and var that are kept, cells of each label.
CUTS = {
    "human_pbmc": ("human_pbmc3k", "cell_type", ["cell_type", "donor"], ["ensembl_id"], 8),
    "human_lines": ("human_lung_lines_mixology", "cell_line", ["cell_line", "assay"], ["gene_symbol"], 6),
    "mouse_oligodendrocytes": (
        "mouse_oligodendrocytes_marques_2000g",
        "cell_type",
        ["cell_type", "sex"],
        ["ensembl_id"],
        4,
    ),
}


def cut(source: Path, label: str, obs: list[str], var: list[str], cells_of_each: int) -> anndata.AnnData:
    """The same number of cells of each label, drawn without replacement, in the order of the source."""
    cells = anndata.read_h5ad(source)
    labels = cells.obs[label].astype(str)
    generator = np.random.default_rng(0)
    rows = np.sort(
        np.concatenate(
            [
                generator.choice(np.flatnonzero(labels == name), size=min(cells_of_each, count), replace=False)
                for name, count in labels[labels != "unassigned"].value_counts(sort=False).items()
            ]
        )
    )
    chosen = cells[rows]
    return anndata.AnnData(
        X=chosen.X.astype(np.float32),
        obs=chosen.obs[obs].apply(lambda column: column.astype(str).astype("category")),
        var=pd.DataFrame(
            {name: chosen.var[name].astype(str).to_numpy(dtype=object) for name in var}, index=chosen.var_names
        ),
    )


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (source, *options) in CUTS.items():
        cells = cut(folder / f"{source}.h5ad", *options)
        cells.write_h5ad(TARGET / f"{name}.h5ad", compression="gzip", compression_opts=9)
        print(f"{name}: {cells.n_obs} cells, {cells.n_vars} genes")


if __name__ == "__main__":
    main()
