"""integrate: one space for cells of several batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scfm_hf.tasks.embed import embed_encoded
from scfm_hf.tasks.loading import ModelLike, load_for_task
from scfm_hf.tasks.own_components import common_counts, join_unit, principal_components
from scfm_hf.tasks.results import holder, record

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer

Mode = Literal["embedding", "joined"]


def integrate(
    adata: AnnData,
    model: ModelLike,
    *,
    batch_key: str | None = None,
    mode: Mode = "embedding",
    n_components: int = 50,
    tokenizer: CellTokenizer | str | None = None,
    base: PreTrainedModel | str | None = None,
    layer: str | None = None,
    key_added: str = "X_integrated",
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    seed: int = 0,
    revision: str | None = None,
    device: str | None = None,
    inplace: bool = False,
    progress: bool = True,
    **options: Any,
) -> AnnData | None:
    """Put the cells of several batches into one space, as ``scanpy.pp.neighbors(adata, use_rep=key_added)`` takes it.

    Parameters
    ----------
    adata
        Cells of all batches, with the values that the model wants.
    model
        A loaded encoder, a folder, or a hub id.
    batch_key
        Column of obs that names the batch of each cell; ``joined`` chooses its variable genes batch by batch, so that
        genes that differ between batches alone do not rule. ``embedding`` has no use for it.
    mode
        ``embedding``: the model's embedding. It depends on each cell alone, so cells that come later land in the same
        space. ``joined``: the embedding beside the principal components of these cells, each scaled to unit length. It
        keeps more of what is particular to the data set, but **depends on all cells of it**: with other cells the space
        is another.
    n_components
        Principal components of ``joined``.
    key_added
        Name of the result.
    seed
        Of the decomposition in ``joined``.
    tokenizer, base, layer, batch_size, tokens_per_batch, revision, device, progress, **options
        As in :func:`scfm_hf.embed`.
    inplace
        Write into ``adata`` and return None; else return a copy with the results.

    Returns
    -------
    A copy of ``adata`` with ``obsm[key_added]``, float32, (n_cells, width), and ``uns["scfm"]["integrate"]``.

    Raises
    ------
    ValueError
        If the mode is none of these, or the batch of some cell is not known.
    KeyError
        If obs has no such column.
    """
    if mode not in ("embedding", "joined"):
        raise ValueError(f"mode={mode!r} is neither 'embedding' nor 'joined'.")
    batches = _batches(adata, batch_key)
    loaded = load_for_task(model, tokenizer, base=base, revision=revision, device=device)
    encoded = loaded.tokenizer.encode_cells(adata, layer=layer, **options)
    limits: dict[str, Any] = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "progress": progress}
    vectors = embed_encoded(encoded, loaded, **limits)
    if mode == "joined":
        (counts,) = common_counts([adata], loaded.tokenizer, layer=layer, **options)
        rows = [np.flatnonzero(batches == number) for number in range(batches.max() + 1)]
        components = principal_components([counts[one] for one in rows], n_components=n_components, seed=seed)
        own = np.empty((adata.n_obs, components[0].shape[1]), np.float32)
        for one, part in zip(rows, components, strict=True):
            own[one] = part
        vectors = join_unit(vectors, own)
    target = holder(adata, inplace=inplace)
    target.obsm[key_added] = vectors
    settings = {"n_components": n_components, "seed": seed, "batch_key": batch_key} if mode == "joined" else {}
    record(target, "integrate", loaded, mode=mode, layer=layer, key_added=key_added, **settings, **options)
    return None if inplace else target


def _batches(adata: AnnData, batch_key: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number of each cell's batch, (n_cells,)."""
    import pandas as pd

    if batch_key is None:
        return np.zeros(adata.n_obs, np.int64)
    if batch_key not in adata.obs:
        raise KeyError(f"obs has no column {batch_key!r}. It has {', '.join(map(repr, adata.obs.columns))}.")
    numbers, _ = pd.factorize(adata.obs[batch_key])
    if (unknown := np.flatnonzero(numbers < 0)).size:
        raise ValueError(
            f"{unknown.size} cells have no {batch_key!r} (first: {', '.join(map(str, adata.obs_names[unknown[:5]]))}). "
            "Name their batch, or leave them out."
        )
    return numbers.astype(np.int64)
