"""Writes the cells that are kept into files of their own; the corpus stays as it is."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.curation.cell_sources import CellSource
from scfm_hf.errors import CorpusError
from scfm_hf.folders import whole_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray


def write_kept_cells(
    keep: Mapping[str, ArrayLike], output: str | os.PathLike[str], *, replace: bool = False, progress: bool = True
) -> dict[str, str]:
    """Write an ``.h5ad`` file of the kept cells of each file; all of them, or nothing.

    Local AnnData files keep everything that they hold. Of others, 10x files and what lies behind a URL, counts, obs and
    var are written. The kept cells of one file are held in memory at a time.

    Parameters
    ----------
    keep
        File -> whether each of its cells is kept, such as :meth:`scfm_hf.data.curation.Curation.keep` gives.
    output
        Folder to make.
    replace
        Put it in the place of a folder that is there.
    progress
        Whether to show a bar.

    Returns
    -------
    File -> name of the new file; files without a kept cell have none.

    Raises
    ------
    CorpusError
        If a file cannot be read, or has another number of cells than ``keep`` says.
    ValueError
        If ``keep`` gives numbers of cells, not whether each is kept.
    FileExistsError
        If the folder is there and ``replace`` is False.
    """
    from tqdm.auto import tqdm

    written: dict[str, str] = {}
    with whole_folder(output, replace=replace) as folder:
        for place, mask in tqdm(keep.items(), desc="files", disable=not progress):
            kept = np.asarray(mask)
            if kept.dtype != np.bool_:
                raise ValueError(f"keep must say True or False for each cell of {place}, not {kept.dtype}.")
            cells = _kept_cells(place, kept)
            if kept.any():
                written[place] = _free_name(place, folder)
                cells.write_h5ad(folder / written[place], compression="gzip")
    return written


def _kept_cells(place: str, kept: NDArray[np.bool_]) -> AnnData:
    import anndata

    source = CellSource(place, lambda: Reading().open(place), np.flatnonzero(kept))
    opened = source.open()
    try:
        if opened.n_cells != len(kept):
            raise CorpusError(
                f"{place} has {opened.n_cells:,} cells, not {len(kept):,}: it was changed. Curate the corpus again."
            )
        if "://" not in place and place.endswith(".h5ad"):
            backed = anndata.read_h5ad(place, backed="r")
            try:
                return backed[kept].to_memory()
            finally:
                backed.file.close()
        if "://" not in place and place.endswith(".zarr"):
            return anndata.read_zarr(place)[kept].copy()
        counts = source.read(opened, np.arange(kept.sum())) if kept.any() else np.empty((0, len(opened.var)))
        names = opened.cell_ids(0, opened.n_cells)[kept].astype(object)
        obs = opened.all_obs.iloc[np.flatnonzero(kept)].set_index(pd.Index(names))
        return anndata.AnnData(counts, obs=obs, var=opened.var)
    finally:
        opened.close()


def _free_name(place: str, folder: Path) -> str:
    """Name of the new file; a number tells files of one name in several folders apart."""
    path = PurePosixPath(place.rstrip("/"))
    stem = path.stem if path.suffix in (".h5ad", ".zarr", ".h5") else path.name
    name, number = f"{stem}.h5ad", 1
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}.h5ad"
    return name
