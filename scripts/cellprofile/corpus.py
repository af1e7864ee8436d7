"""The corpus of CellProfile: real human data sets whose licence lets a model be shipped, joined by Ensembl id."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import anndata
import numpy as np
from scipy import sparse

from scfm_hf.genes import strip_version

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: File of each set of which a trained model may be shipped, see ``data/DATA.md``.
SETS = {
    "retina": "human_retina_voigt",
    "choroid": "human_choroid_voigt",
    "pbmc3k": "human_pbmc3k",
    "ifnb": "human_pbmc_ifnb_labelled",
    "frozen": "human_pbmc_frozen_a",
    "sorted": "human_pbmc_sorted",
    "chemistries": "human_pbmc_chemistries",
    "celltypist": "human_immune_celltypist_sample",
    "lines": "human_lung_lines_mixology",
    "mixtures": "human_rna_mixtures_mixology",
    "pollen": "human_pollen",
}
#: Set to measure on alone.
ONLY_EVALUATED = {"tnbc": "human_breast_tnbc_wu_cid4465"}
#: Column of obs that parts a set into studies (donors and chemistries that were processed apart).
PARTED_BY = {"chemistries": "assay", "retina": "donor", "choroid": "donor", "lines": "assay"}
#: The authors' words -> ours; what is missing has no label. Coarse words (T, Mono) stand for themselves.
LABELS: dict[str, dict[str, str]] = {
    "pbmc3k": {
        "Naive CD4 T": "CD4 T", "Memory CD4 T": "CD4 T", "CD14+ Mono": "CD14 Mono", "FCGR3A+ Mono": "FCGR3A Mono",
        "CD8 T": "CD8 T", "B": "B", "NK": "NK", "DC": "DC", "Platelet": "Platelet",
    },
    "ifnb": {
        "CD14 Mono": "CD14 Mono", "CD16 Mono": "FCGR3A Mono", "CD4 Naive T": "CD4 T", "CD4 Memory T": "CD4 T",
        "T activated": "CD4 T", "CD8 T": "CD8 T", "B": "B", "B Activated": "B", "NK": "NK", "DC": "DC",
        "Mk": "Platelet", "pDC": "pDC",
    },
    "sorted": {
        "nk": "NK", "bcells": "B", "memoryt": "CD4 T", "regulatoryt": "CD4 T", "thelper": "CD4 T", "naivet": "CD4 T",
        "cytotoxict": "CD8 T", "naivecytotoxic": "CD8 T", "monocytes": "Mono",
    },
    "retina": {
        "Muller glia": "Muller", "Bipolar cells": "Bipolar", "Rods": "Rod", "Cones": "Cone",
        "Amacrine cells": "Amacrine", "Horizontal cells": "Horizontal",
        "Vascular endothelium": "Endothelial", "Pericytes": "Pericyte", "Microglia": "Macrophage",
    },
    "choroid": {
        "Fibroblasts": "Fibroblast", "T cell": "T", "Melanocytes": "Melanocyte", "Schwann": "Schwann", "RPE": "RPE",
        "Pericytes": "Pericyte", "Macrophage": "Macrophage", "Endothelial": "Endothelial", "B cell": "B",
        "Mast": "Mast",
    },
    "tnbc": {
        "CAFs": "Fibroblast", "PVL": "Pericyte", "Endothelial": "Endothelial", "Myeloid": "Macrophage", "T-cells": "T",
        "Plasmablasts": "Plasma", "B-cells": "B", "Cancer Epithelial": "Cancer",
    },
}  # fmt: skip
#: Coarse word -> the finer ones that it may stand for; such a pair is neither the same class nor another.
COARSE = {"T": ("CD4 T", "CD8 T"), "Mono": ("CD14 Mono", "FCGR3A Mono")}
#: Cells with fewer genes are left out.
FEWEST_GENES = 100


@dataclass(frozen=True)
class Study:
    """Cells of one set over the genes of the corpus.

    Parameters
    ----------
    counts
        Raw counts, float32, (n_cells, n_genes).
    totals
        Total over all genes of the file, (n_cells,).
    measured
        Genes that the file has, (n_genes,).
    labels
        Our word for each cell's type, '' where there is none, (n_cells,).
    parts
        Study that each cell belongs to, (n_cells,).
    """

    counts: sparse.csr_matrix
    totals: NDArray[np.float32]
    measured: NDArray[np.bool_]
    labels: NDArray[np.str_]
    parts: NDArray[np.str_]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Study:
        """Some of the cells."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Study(self.counts[rows], self.totals[rows], self.measured, self.labels[rows], self.parts[rows])


@cache
def read_corpus(folder: Path) -> tuple[tuple[str, ...], dict[str, Study]]:
    """Ensembl ids that at least three files have, and all sets over them."""
    files = {name: anndata.read_h5ad(folder / f"{file}.h5ad") for name, file in {**SETS, **ONLY_EVALUATED}.items()}
    ids = {name: np.array([strip_version(i) for i in _ensembl_ids(adata)]) for name, adata in files.items()}
    names, times = np.unique(np.concatenate([np.unique(one) for one in ids.values()]), return_counts=True)
    genes = tuple(str(name) for name in names[(times >= 3) & np.char.startswith(names, "ENSG")])
    place = {gene: number for number, gene in enumerate(genes)}
    return genes, {name: _study(name, adata, ids[name], place) for name, adata in files.items()}


def _ensembl_ids(adata: anndata.AnnData) -> NDArray[np.str_]:
    return adata.var["ensembl_id"].astype(str).to_numpy() if "ensembl_id" in adata.var else adata.var_names.to_numpy()


def _study(name: str, adata: anndata.AnnData, ids: NDArray[np.str_], place: dict[str, int]) -> Study:
    columns = np.array([place.get(gene, -1) for gene in ids])
    known = np.flatnonzero(columns >= 0)
    join = sparse.csr_matrix((np.ones(len(known), np.float32), (known, columns[known])), shape=(len(ids), len(place)))
    counts = sparse.csr_matrix(sparse.csr_matrix(adata.X, dtype=np.float32) @ join)
    kept = np.flatnonzero(np.diff(counts.indptr) >= FEWEST_GENES)
    measured = np.zeros(len(place), bool)
    measured[columns[known]] = True
    obs = adata.obs.iloc[kept]
    if name == "lines":
        labels = np.where(obs["demuxlet_class"] == "SNG", obs["cell_line"].astype(str), "")
    elif name == "pollen":
        labels = obs["cell_type"].astype(str).to_numpy()
    else:
        words = LABELS.get(name, {})
        labels = np.array([words.get(str(word), "") for word in obs.get("cell_type", [""] * len(obs))])
    parts = obs[PARTED_BY[name]].astype(str).to_numpy() if name in PARTED_BY else np.full(len(obs), name)
    totals = np.asarray(adata.X.sum(1), np.float32).ravel()[kept]
    return Study(counts[kept], totals, measured, labels.astype(str), np.array([f"{name}: {part}" for part in parts]))
