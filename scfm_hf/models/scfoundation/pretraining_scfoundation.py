"""Read-depth-aware pretraining: recover a cell's expression from a shallower one with some of its genes hidden.

Written from the paper's Methods; the authors never released the code of their training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig
    from scfm_hf.tokenization.draws import Draws, Stream

#: Cells with more counts are made shallower in half of the cases, by a share that is drawn from Beta(2, 2).
_DEEP, _PROBABILITY, _BETA = 1000, 0.5, (2.0, 2.0)
_TARGET_SUM = 1e4


def read_depth_batch(
    cells: Sequence[Mapping[str, Any]],
    config: ScFoundationConfig,
    *,
    draws: Draws,
    cell_ids: Sequence[str | int],
) -> dict[str, Tensor]:
    """Make a batch of the pretraining task.

    A cell with more than 1,000 counts is, with probability 0.5, replaced by a binomial draw of a share of its counts;
    the depth that it has then is the source depth, that of the raw cell the target depth. 30 % of the expressed genes
    and 3 % of the others are hidden; the expression of the raw cell is what the decoder must give for them.

    Parameters
    ----------
    cells
        One a cell, with ``input_ids`` and ``counts`` (raw), as the tokenizer gives them with
        ``return_columns=("counts",)``; the depths and padding among them are not used.
    config
        Says the tokens, and the shares that are hidden: ``value_mask_rate`` and ``zero_mask_rate``.
    draws, cell_ids
        Where the draws come from, one a cell. With ``CellDraws`` (a step of its own for each epoch) they depend on the
        cell alone.

    Returns
    -------
    ``input_ids``, ``values``, ``attention_mask`` of what the encoder sees, (n_cells, n_tokens); ``masked_genes``, bool,
    and ``labels``, float32, -100 where nothing is hidden, (n_cells, num_genes): the inputs of
    :class:`ScFoundationForExpressionPrediction`.

    Raises
    ------
    ValueError
        If a cell has no counts.
    """
    made = []
    for cell, cell_id in zip(cells, cell_ids, strict=True):
        ids = np.asarray(cell["input_ids"], np.int64)
        genes = ids < config.num_genes
        counts = np.zeros(config.num_genes)
        np.add.at(counts, ids[genes], np.asarray(cell["counts"], np.float64)[genes])
        if not counts.any():
            raise ValueError(f"Cell {cell_id} has no counts; leave it out.")
        made.append(_example(counts, config, draws.cell(cell_id)))
    return {name: _padded([one[name] for one in made], _padding(config).get(name)) for name in made[0]}


def _example(counts: NDArray[np.float64], config: ScFoundationConfig, stream: Stream) -> dict[str, NDArray[Any]]:
    """Inputs and labels of one cell, from the counts of all genes."""
    shallow = shallower(counts, stream)
    given, wanted = (np.log1p(one / one.sum() * _TARGET_SUM) for one in (shallow, counts))
    masked = np.zeros(len(counts), np.bool_)
    for genes, rate in (
        (np.flatnonzero(given > 0), config.value_mask_rate),
        (np.flatnonzero(given == 0), config.zero_mask_rate),
    ):
        masked[genes[stream.choice(len(genes), int(len(genes) * rate))]] = True
    seen = np.flatnonzero((given > 0) & ~masked)
    depths = np.log10([counts.sum(), shallow.sum()])
    return {
        "input_ids": np.append(seen, [config.target_depth_token_id, config.source_depth_token_id]),
        "values": np.append(given[seen], depths).astype(np.float32),
        "attention_mask": np.ones(len(seen) + 2, np.int64),
        "masked_genes": masked,
        "labels": np.where(masked, wanted, -100).astype(np.float32),
    }


def shallower(counts: NDArray[np.float64], stream: Stream) -> NDArray[np.float64]:
    """The same cell read less deeply, in half of the cases and if it has more than 1,000 counts; never empty.

    Parameters
    ----------
    counts
        Whole numbers, (n_genes,).
    stream
        What is drawn from.
    """
    if counts.sum() <= _DEEP or stream.uniform(1)[0] >= _PROBABILITY:
        return counts
    drawn = stream.numpy.binomial(counts.astype(np.int64), stream.numpy.beta(*_BETA)).astype(np.float64)
    return drawn if drawn.any() else counts


def _padding(config: ScFoundationConfig) -> dict[str, float]:
    """What stands at padding of the columns that have some."""
    return {"input_ids": config.pad_token_id or 0, "values": 0.0, "attention_mask": 0}


def _padded(rows: Sequence[NDArray[Any]], pad: float | None) -> Tensor:
    """Rows as a tensor, padded on the right if there is something to pad with."""
    if pad is None:
        return torch.from_numpy(np.stack(rows))
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=pad)
