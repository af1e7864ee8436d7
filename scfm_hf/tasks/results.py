"""Where results go: into the AnnData if asked, else into a copy, with where they came from."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anndata

if TYPE_CHECKING:
    from anndata import AnnData

    from scfm_hf.tasks.loading import LoadedModel

#: Libraries whose version can change a number.
_LIBRARIES = ("anndata", "numpy", "scikit-learn", "scipy", "scfm-hf", "torch", "transformers")


def holder(adata: AnnData, *, inplace: bool) -> AnnData:
    """The AnnData that takes the results: the input itself, or a copy (of a backed file one without X)."""
    if inplace:
        return adata
    if adata.isbacked:
        return anndata.AnnData(obs=adata.obs.copy(), var=adata.var.copy(), uns=dict(adata.uns))
    return adata.copy()


def record(adata: AnnData, task: str, loaded: LoadedModel | None, **options: Any) -> None:
    """Write into ``uns["scfm"][task]`` which model, options and versions made a result."""
    entry: dict[str, Any] = {
        "options": {name: _storable(value) for name, value in options.items() if value is not None}
    }
    if loaded is not None:
        entry |= {
            "model": loaded.name,
            "family": loaded.spec.name,
            "revision": loaded.revision or "local",
            "vocabulary_digest": loaded.tokenizer.vocabulary_digest,
        }
    entry["versions"] = {name: _installed(name) for name in _LIBRARIES}
    adata.uns["scfm"] = {**adata.uns.get("scfm", {}), task: entry}


def _storable(value: Any) -> Any:
    """A value that .h5ad files can hold."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _installed(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"
