"""The count matrices of 10x Genomics' Cell Ranger: HDF5 files, and folders with a matrix.mtx."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfm_hf.data.cell_files import StoredCells, TableObs
from scfm_hf.data.stored_rows import CompressedRows
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    import h5py

GENES = "Gene Expression"
"""What Cell Ranger calls features that are genes; antibodies and guides have other types."""


def open_tenx_h5(place: str, handle: h5py.File) -> StoredCells:
    """The cells of a 10x HDF5 file; its matrix, genes x cells by columns, is cells x genes by rows.

    Raises
    ------
    CorpusError
        If it is no such file, or holds several genomes.
    """
    genomes = [name for name in handle if {"data", "indices", "indptr", "barcodes"} <= set(handle[name])]
    if not genomes:
        raise CorpusError("it holds neither an AnnData nor a 10x count matrix")
    if len(genomes) > 1:
        raise CorpusError(f"it holds the matrices of several genomes ({', '.join(genomes)}). Give a file for each")
    matrix = handle[genomes[0]]
    if "features" in matrix:
        features = matrix["features"]
        var = _var(_texts(features["id"]), _texts(features["name"]), _texts(features["feature_type"]))
    else:
        var = _var(_texts(matrix["genes"]), _texts(matrix["gene_names"]), None)
    rows = CompressedRows(matrix["data"], matrix["indices"], matrix["indptr"], len(var))
    obs = TableObs(pd.DataFrame(index=_texts(matrix["barcodes"])))
    return StoredCells(place, rows, var, obs, handle.close)


def open_matrix_market(place: str, system: Any, folder: str) -> StoredCells:
    """The cells of a folder with ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, maybe gzipped.

    Raises
    ------
    CorpusError
        If one of the files is missing, or they do not fit together.
    """
    from scipy.io import mmread

    with _open_text(system, folder, ("matrix.mtx",)) as stream:
        counts = mmread(stream).T.tocsr()
    with _open_text(system, folder, ("features.tsv", "genes.tsv")) as stream:
        features = pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False)
    with _open_text(system, folder, ("barcodes.tsv",)) as stream:
        barcodes = pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False)[0]
    if counts.shape != (len(barcodes), len(features)):
        raise CorpusError(
            f"its matrix has {counts.shape[0]:,} cells and {counts.shape[1]:,} genes, its tables name "
            f"{len(barcodes):,} and {len(features):,}"
        )
    names = features[1] if features.shape[1] > 1 else features[0]
    var = _var(features[0], names, features[2] if features.shape[1] > 2 else None)
    rows = CompressedRows(counts.data, counts.indices, counts.indptr, len(var))
    return StoredCells(place, rows, var, TableObs(pd.DataFrame(index=barcodes.to_numpy())), lambda: None)


def _var(ids: Any, symbols: Any, types: Any) -> pd.DataFrame:
    """Genes by id; other features keep their column under no name, so that they are no gene of any vocabulary."""
    var = pd.DataFrame({"gene_ids": np.asarray(ids), "gene_symbols": np.asarray(symbols)}, dtype=str)
    if types is not None:
        var["feature_types"] = np.asarray(types)
        var.loc[var["feature_types"] != GENES, ["gene_ids", "gene_symbols"]] = ""
    return var.set_index("gene_ids", drop=False).rename_axis(None)


def _texts(stored: h5py.Dataset) -> np.ndarray:
    return np.asarray(stored.asstr()[:], dtype=object)


def _open_text(system: Any, folder: str, names: tuple[str, ...]) -> Any:
    """A stream of the first of these files that is there, gzipped or not."""
    for name in names:
        for path, opened in ((f"{folder}/{name}", lambda raw: raw), (f"{folder}/{name}.gz", gzip.open)):
            if system.exists(path):
                return opened(system.open(path, "rb"))
    raise CorpusError(f"it has no {' or '.join(names)}")
