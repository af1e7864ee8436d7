"""Hiding values from the model: masks over values, and the split into perceived and generated genes (scGPT).

Every function takes the :mod:`~scfm_hf.tokenization.draws` to use. With ``CellDraws`` (give each epoch a step of its
own) what is hidden in a cell depends on that cell alone; with ``SharedDraws`` the numbers are those of the original,
which draws once for a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization.binned_tokens import BinnedTokens
from scfm_hf.tokenization.draws import Draws, SharedDraws, Stream
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def mask_share(
    values: NDArray[Any],
    maskable: NDArray[np.bool_],
    *,
    share: float,
    draws: Draws,
    cell_ids: Sequence[str | int],
    mask_value: float = -1.0,
) -> NDArray[Any]:
    """Mask a fixed share of each cell's values, rounded down.

    Parameters
    ----------
    values
        Values of a padded batch, (n_cells, n_tokens).
    maskable
        Where a value may be masked, (n_cells, n_tokens): not at padding, and not at ``<cls>`` (where the original may).
    share
        Part of the maskable values of each cell, 0 to 1.
    draws, cell_ids
        Where the choice is drawn from, one a cell.
    mask_value
        What stands at masked places.

    Returns
    -------
    A copy of the values with the mask value in the places chosen.
    """
    masked = values.copy()
    for row, (candidates, cell_id) in enumerate(zip(maskable, cell_ids, strict=True)):
        places = np.flatnonzero(candidates)
        chosen = draws.cell(cell_id).choice(len(places), int(len(places) * share))
        masked[row, places[chosen]] = mask_value
    return masked


def mask_each(
    values: NDArray[Any],
    maskable: NDArray[np.bool_],
    *,
    probability: float | Sequence[float],
    draws: Draws,
    cell_ids: Sequence[str | int],
    mask_value: float = -1.0,
) -> NDArray[Any]:
    """Mask each value with a probability, independently of the others.

    Parameters
    ----------
    values, maskable, draws, cell_ids, mask_value
        As in :func:`mask_share`.
    probability
        Of a value to be masked. Of several, one is drawn for each cell (shared draws: for the batch).

    Returns
    -------
    A copy of the values with the mask value in the places drawn.
    """
    if isinstance(draws, SharedDraws):
        chosen = _shared_bernoulli(maskable * _draw_one(draws, probability), draws)
    else:
        chosen = np.zeros_like(maskable)
        for row, cell_id in enumerate(cell_ids):
            stream = draws.cell(cell_id)
            p = _draw_one(stream, probability)
            # The first numbers of a stream do not depend on how many are drawn: the padded length does not matter.
            chosen[row] = stream.uniform(maskable.shape[1]) < p
    return np.where(chosen & maskable, np.asarray(mask_value, values.dtype), values)


def _shared_bernoulli(probabilities: NDArray[Any], draws: SharedDraws) -> NDArray[np.bool_]:
    import torch

    return torch.bernoulli(torch.from_numpy(probabilities).float(), generator=draws.torch).bool().numpy()


def _draw_one(stream: Stream, probability: float | Sequence[float]) -> float:
    if isinstance(probability, (int, float)):
        return probability
    return float(probability[int(stream.numpy.choice(len(probability)))])


@dataclass(frozen=True)
class GenerativeSplit:
    """The two sides of each cell.

    Parameters
    ----------
    perceived
        What the model sees: ``<cls>`` first, then genes with values.
    generated
        The genes whose values it generates from the others.
    """

    perceived: BinnedTokens
    generated: BinnedTokens


def split_for_generation(
    tokens: BinnedTokens,
    *,
    max_length: int,
    draws: Draws,
    cell_ids: Sequence[str | int],
    shares: Sequence[float] = (0.25, 0.5, 0.75),
) -> GenerativeSplit:
    """Split each cell's genes at random into perceived and generated ones.

    Parameters
    ----------
    tokens
        Cells that begin with ``<cls>``, not padded.
    max_length
        Most tokens of both sides together; more are left out at random.
    draws, cell_ids
        Where the split is drawn from.
    shares
        Part that is generated, rounded down: one of these is drawn for each cell (shared draws: for the batch, with the
        original's lengths, which depend on the longest cell of the batch).

    Returns
    -------
    Both sides, genes in random order.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Generative pretraining".
    """
    lengths = tokens.input_ids.lengths.tolist()
    if isinstance(draws, SharedDraws):
        split = _shared_split(lengths, max_length, shares, draws)
    else:
        split = [
            split_cell(length - 1, max_length - 1, shares, draws.cell(cell_id))
            for length, cell_id in zip(lengths, cell_ids, strict=True)
        ]
    starts = tokens.input_ids.offsets[:-1]
    perceived = [start + np.append(0, 1 + seen) for start, (seen, _) in zip(starts, split, strict=True)]
    generated = [start + 1 + hidden for start, (_, hidden) in zip(starts, split, strict=True)]
    return GenerativeSplit(_take(tokens, perceived), _take(tokens, generated))


def _take(tokens: BinnedTokens, rows: list[NDArray[np.int64]]) -> BinnedTokens:
    places = Ragged.from_rows(rows, np.int64)
    ids, values = tokens.input_ids.values[places.values], tokens.values.values[places.values]
    return BinnedTokens(Ragged(ids, places.offsets), Ragged(values, places.offsets))


def split_cell(
    n_genes: int, limit: int, shares: Sequence[float], stream: Stream
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Perceived and generated genes of one cell, numbered without ``<cls>``, each side in random order.

    Parameters
    ----------
    n_genes
        Genes of the cell.
    limit
        Most of them on both sides together.
    shares
        Part that is generated, rounded down: one is drawn.
    stream
        The cell's random numbers.
    """
    share = _draw_one(stream, shares)
    order = stream.permutation(n_genes)[:limit]
    n_generated = int(len(order) * share)
    return order[n_generated:], order[:n_generated]


def _shared_split(
    lengths: Sequence[int], max_length: int, shares: Sequence[float], draws: SharedDraws
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """As :func:`split_cell` for a batch, with the original's draws."""
    share = _draw_one(draws, shares)
    longest = min(max(lengths), max_length)
    generated_limit = int((longest - 1) * share)
    perceived_limit = longest - generated_limit - 1
    split = []
    for length in lengths:
        order = draws.permutation(length - 1)
        n_generated = int((length - 1) * share)
        seen, hidden = order[n_generated:], order[:n_generated]
        if len(seen) > perceived_limit:
            seen = seen[draws.permutation(len(seen))[:perceived_limit]]
        if len(hidden) > generated_limit:
            # The original keeps the first token here too, as if it were <cls>.
            rest = 1 + draws.permutation(len(hidden) - 1)[: generated_limit - 1]
            hidden = hidden[np.append(0, rest)][:generated_limit]
        split.append((seen, hidden))
    return split
