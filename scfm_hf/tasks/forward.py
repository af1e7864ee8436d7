"""The encoder run over batches of cells, in evaluation mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.tasks.batches import model_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from scfm_hf.tasks.loading import LoadedModel
    from scfm_hf.tokenization.encoding import EncodedCells


def encoder_of(loaded: LoadedModel) -> Any:
    """The encoder, without the head that a task put on it."""
    return getattr(loaded.model, "base_model", loaded.model)


def encoder_outputs(
    encoded: EncodedCells, loaded: LoadedModel, batches: Iterable[NDArray[np.int64]], **asked: Any
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Yield (rows, output of the encoder) of each batch, and leave the model in the mode it was in.

    Parameters
    ----------
    encoded, loaded
        Cells and model.
    batches
        Rows of each batch.
    **asked
        Further arguments of the model's forward.
    """
    columns = dict(loaded.tokenizer.scheme().columns)
    body = encoder_of(loaded)
    training = body.training
    body.eval()
    try:
        with torch.inference_mode():
            for rows in batches:
                inputs = model_inputs(encoded, columns, rows)
                inputs = {name: values.to(body.device) for name, values in inputs.items()}
                yield rows, body(**inputs, **asked, return_dict=True)
    finally:
        body.train(training)


def embedded_batches(
    encoded: EncodedCells,
    loaded: LoadedModel,
    batches: Iterable[NDArray[np.int64]],
    *,
    pooling: str | None = None,
    embedding_layer: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (rows, embeddings) of each batch; embeddings are float32, (n_rows, hidden_size), NaN without a gene."""
    before, after = loaded.tokenizer.scheme().surrounding_tokens
    lengths = encoded.lengths
    with encoder_of(loaded).embedding_options(pooling=pooling, embedding_layer=embedding_layer):
        for rows, output in encoder_outputs(encoded, loaded, batches):
            values = output.cell_embedding.float().cpu().numpy()
            # Such cells hold special tokens only.
            values[lengths[rows] <= len(before) + len(after)] = np.nan
            yield rows, values
