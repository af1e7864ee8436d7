"""Small real data sets that ship with the package, for examples, the quickstart and tests."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def examples() -> dict[str, dict[str, str]]:
    """Name of each data set -> title, source, licence, citation, species, column of its labels, sha256."""
    return json.loads((files(__package__) / "examples.json").read_text(encoding="utf-8"))


def load_example(name: str = "pbmc3k") -> AnnData:
    """Load a data set: raw counts, with labels in obs.

    Parameters
    ----------
    name
        One of :func:`examples`.

    Returns
    -------
    An AnnData in memory; ``uns["example"]`` says where it comes from and under which licence.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    import anndata

    described = examples()
    if name not in described:
        raise KeyError(f"No example {name!r} ships with scfm_hf. There are: {', '.join(described)}.")
    with as_file(files(__package__) / f"{name}.h5ad") as path:
        adata = anndata.read_h5ad(path)
    adata.uns["example"] = described[name]
    return adata
