"""embed: one vector a cell, and one a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from scfm_hf.tasks.batches import rows_by_length
from scfm_hf.tasks.forward import embedded_batches, encoder_of, encoder_outputs
from scfm_hf.tasks.loading import LoadedModel, ModelLike, load_for_task
from scfm_hf.tasks.results import holder, record
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.tokenization.encoding import EncodedCells

#: Layers by the names that people use for them.
_LAYERS = {"last": -1, "second_to_last": -2}


def embed(
    adata: AnnData,
    model: ModelLike,
    *,
    tokenizer: CellTokenizer | str | None = None,
    base: PreTrainedModel | str | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    embedding_layer: int | Literal["last", "second_to_last"] | None = None,
    genes: bool = False,
    key_added: str | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    empty_cells: Literal["raise", "keep"] = "raise",
    parts: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: str | None = None,
    inplace: bool = False,
    progress: bool = True,
    **options: Any,
) -> AnnData | None:
    """Embed cells.

    A cell's vector depends on that cell alone: not on its batch, on ``batch_size``, or on the order of cells and genes.
    A model that reads sets of cells (CellPLM) sees those that the tokenizer's option ``cell_sets`` names, whole sets at
    a time.

    Parameters
    ----------
    adata
        Cells with the values that the model wants (raw counts, for most), in memory or backed.
    model
        A loaded model, a folder, or a hub id.
    tokenizer
        The tokenizer; None takes the one beside the model.
    base
        For an adapter: its base, loaded or where it is; None takes the one that the adapter names.
    layer
        Layer of the AnnData that holds the values; None for X.
    pooling
        Recipe of the embedding; None takes the one that the model's authors use.
    embedding_layer
        Which of the model's layers: ``"last"``, ``"second_to_last"``, or a number as in ``hidden_states``; None as the
        authors do.
    genes
        Also give each gene the mean of its states over the cells that express it, in ``varm``.
    key_added
        Name of the result; None: ``X_<family>``.
    batch_size
        Most cells a batch. None: as many as ``tokens_per_batch`` tokens allow.
    tokens_per_batch
        Most tokens a batch, padding included; lower it if memory runs out.
    empty_cells
        ``"keep"`` gives cells without a known gene NaN, ``"raise"`` refuses them.
    parts
        Folder to keep vectors in while they are made: a run that was killed goes on from them, and ranks that torchrun
        or accelerate launch started share the cells (all of them must call this). The first rank gets the result, the
        same as from one process; the others get None, and their ``adata`` stays as it is.
    revision, device
        Commit on the hub, and where to compute.
    inplace
        Write into ``adata`` and return None; else return a copy with the results.
    progress
        Show a progress bar.
    **options
        Further options of the tokenizer, see :func:`scfm_hf.tokenization.encoding.encode_cells`.

    Returns
    -------
    A copy of ``adata`` with ``obsm[key_added]``, float32, (n_cells, hidden_size), in the order of the cells; with
    ``genes`` also ``varm[key_added]``, NaN for genes that no cell expresses or the model does not know; and
    ``uns["scfm"]["embed"]``.

    Raises
    ------
    ExpressionError, GeneIdError, VocabularyError
        If the input cannot be what the model needs.
    CompatibilityError
        If tokenizer and model do not belong together.
    CorpusError
        If ``parts`` holds parts of another embedding.
    """
    if genes and parts is not None:
        raise ValueError("genes=True needs the states of all cells at once: leave parts= out.")
    loaded = load_for_task(model, tokenizer, base=base, revision=revision, device=device)
    encoded = loaded.tokenizer.encode_cells(adata, layer=layer, empty_cells=empty_cells, **options)
    number = _LAYERS[embedding_layer] if isinstance(embedding_layer, str) else embedding_layer
    recipe: dict[str, Any] = {"pooling": pooling, "embedding_layer": number}
    limits: dict[str, Any] = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "progress": progress}
    if parts is None:
        vectors: NDArray[np.float32] | None = embed_encoded(encoded, loaded, **recipe, **limits)
    else:
        from scfm_hf.tasks.embedding_parts import embed_in_parts

        columns = dict(loaded.tokenizer.scheme().columns)
        batches = rows_by_length(encoded, columns, batch_size=batch_size, tokens_per_batch=tokens_per_batch)
        vectors = embed_in_parts(encoded, loaded, batches, parts, **recipe, progress=progress)
    if vectors is None:
        return None
    target = holder(adata, inplace=inplace)
    key = key_added or f"X_{loaded.spec.name}"
    if genes:
        states = embed_genes_encoded(encoded, loaded, embedding_layer=recipe["embedding_layer"], **limits)
        target.varm[key] = _align_genes(states, adata, loaded, options.get("gene_column"))
    target.obsm[key] = vectors
    record(target, "embed", loaded, layer=layer, key_added=key, **recipe, **options)
    return None if inplace else target


def embed_encoded(
    encoded: EncodedCells,
    loaded: LoadedModel,
    *,
    pooling: str | None = None,
    embedding_layer: int | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Cell embeddings of encoded cells, float32, (n_cells, hidden_size); NaN for cells without a gene."""
    vectors: NDArray[np.float32] | None = None
    batches = _batches(encoded, loaded, batch_size, tokens_per_batch, progress)
    for rows, values in embedded_batches(encoded, loaded, batches, pooling=pooling, embedding_layer=embedding_layer):
        if vectors is None:
            vectors = np.empty((len(encoded), values.shape[1]), np.float32)
        vectors[rows] = values
    if vectors is None:
        raise ValueError("There is no cell to embed.")
    return vectors


def embed_genes_encoded(
    encoded: EncodedCells,
    loaded: LoadedModel,
    *,
    embedding_layer: int | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    progress: bool = False,
) -> pd.DataFrame:
    """Mean state of each token over the cells that have it, float32, (n_tokens, hidden_size), indexed by token."""
    import pandas as pd

    if not loaded.spec.gene_states:
        raise ValueError(f"{loaded.spec.title} has no state for each gene.")
    body = encoder_of(loaded)
    layer = body.config.embedding_layer if embedding_layer is None else embedding_layer
    size = len(loaded.tokenizer)
    sums: torch.Tensor | None = None
    times = torch.zeros(size, dtype=torch.float64)
    batches = _batches(encoded, loaded, batch_size, tokens_per_batch, progress)
    for rows, output in encoder_outputs(encoded, loaded, batches, output_hidden_states=True):
        ids = encoded.columns["input_ids"]
        assert isinstance(ids, Ragged)
        tokens = ids.take(rows)
        states = output.hidden_states[layer]
        real = torch.from_numpy(np.arange(states.shape[1]) < tokens.lengths[:, None])
        flat, index = states.double().cpu()[real], torch.from_numpy(tokens.values.astype(np.int64))
        if sums is None:
            sums = torch.zeros(size, flat.shape[1], dtype=torch.float64)
        sums.index_add_(0, index, flat)
        times.index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
    if sums is None:
        raise ValueError("There is no cell to embed.")
    seen = torch.nonzero(times).squeeze(1)
    means = (sums[seen] / times[seen, None]).float().numpy()
    return pd.DataFrame(means, index=pd.Index(loaded.tokenizer.convert_ids_to_tokens(seen.tolist()), name="gene"))


def _batches(
    encoded: EncodedCells, loaded: LoadedModel, batch_size: int | None, tokens_per_batch: int, progress: bool
) -> Iterator[NDArray[np.int64]]:
    """Rows of each batch; a progress bar counts those that are done."""
    columns = dict(loaded.tokenizer.scheme().columns)
    with tqdm(total=len(encoded), unit="cell", desc="embed", disable=not progress, delay=1) as bar:
        for rows in rows_by_length(encoded, columns, batch_size=batch_size, tokens_per_batch=tokens_per_batch):
            yield rows
            bar.update(len(rows))


def _align_genes(
    states: pd.DataFrame, adata: AnnData, loaded: LoadedModel, gene_column: str | None
) -> NDArray[np.float32]:
    """Lines of the AnnData's genes, NaN where there is none."""
    from scfm_hf.cells import CellMatrix, choose_gene_column

    vocabulary = loaded.tokenizer.vocabulary
    column = gene_column or choose_gene_column(
        adata, id_kind=vocabulary.id_kind, species=next(iter(vocabulary.species), None)
    )
    indices = loaded.tokenizer.mapper.map(CellMatrix(adata, gene_column=column).gene_names.tolist()).indices
    names = np.array(vocabulary.tokens, object)[indices]
    aligned = states.reindex(names).to_numpy(np.float32, copy=True)
    aligned[indices < 0] = np.nan
    return aligned
