"""Reading and writing the files that commands name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def read_cells(path: Path, *, backed: bool = False) -> AnnData:
    """Read an ``.h5ad`` file or a ``.zarr`` folder.

    Raises
    ------
    CorpusError
        If the file is damaged or of another kind.
    FileNotFoundError
        If it is not there.
    """
    import anndata

    from scfm_hf.errors import CorpusError

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        if path.suffix == ".zarr" or path.is_dir():
            return anndata.read_zarr(path)
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError, ValueError) as error:
        raise CorpusError(
            f"{path} cannot be read as an AnnData ({error}). It is damaged or of another kind."
        ) from error


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless a result may be written there."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another place, or replace it with --overwrite.")


def write_cells(adata: AnnData, path: Path, *, overwrite: bool) -> None:
    """Write an ``.h5ad`` file, whole or not at all."""
    from scfm_hf.folders import whole_file

    with whole_file(path, replace=overwrite) as new:
        adata.write_h5ad(new, compression="gzip")
