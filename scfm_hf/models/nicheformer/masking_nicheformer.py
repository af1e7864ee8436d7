"""Masked-token pretraining of Nicheformer: which tokens are hidden, and what stands in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scfm_hf.tokenization.draws import Draws, SharedDraws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfm_hf.models.nicheformer.configuration_nicheformer import NicheformerConfig

#: Of the tokens that are to be predicted: share that a random token replaces, and share of the rest that stays.
_RANDOM, _KEPT = 0.1, 0.1
#: Random tokens are drawn from here on: some assays, and all genes.
_FIRST_RANDOM = 10


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    config: NicheformerConfig,
    *,
    probability: float = 0.15,
    draws: Draws,
    cell_ids: Sequence[str | int],
) -> tuple[Tensor, Tensor]:
    """Hide tokens, as Nicheformer was pretrained: 81 % by the mask, 10 % by a random token, 9 % not at all.

    Parameters
    ----------
    input_ids
        int64, (n_cells, n_tokens).
    maskable
        Which tokens may be hidden, bool, same shape: the genes, say. The original hides context tokens too, but never
        that of dissociated cells.
    config
        Names the mask and the number of tokens.
    probability
        Of a token to be chosen.
    draws, cell_ids
        Where the choice is drawn from, one a cell. With ``CellDraws`` (a step of its own for each epoch) it depends on
        the cell alone, with ``SharedDraws`` the numbers are the original's.

    Returns
    -------
    Ids with tokens hidden, and labels: the true ids of those that were chosen, -100 elsewhere.
    """
    shape = tuple(input_ids.shape)
    if isinstance(draws, SharedDraws):
        drawn: tuple[Tensor, ...] = _draw(draws.torch, shape, probability, config.vocab_size)
    else:
        # The first numbers of a stream do not depend on how many are drawn: the padded length does not matter.
        rows = [_draw_row(draws.cell(cell_id).numpy, shape[1], probability, config.vocab_size) for cell_id in cell_ids]
        drawn = tuple(torch.stack(part) for part in zip(*rows, strict=True))
    chosen, tokens, is_random, is_kept = drawn
    chosen = chosen & maskable.bool()
    hidden = torch.where(is_random, tokens, torch.where(is_kept, input_ids, config.mask_token_id or 0))
    return torch.where(chosen, hidden, input_ids), input_ids.masked_fill(~chosen, -100)


def _draw(
    generator: torch.Generator, shape: tuple[int, ...], probability: float, n_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is chosen, random tokens, where they stand, and what is kept: in the order of the original's draws."""
    chosen = torch.empty(shape).bernoulli_(probability, generator=generator).bool()
    tokens = torch.randint(_FIRST_RANDOM, n_tokens, shape, generator=generator)
    is_random, is_kept = (
        torch.bernoulli(torch.full(shape, share), generator=generator).bool() for share in (_RANDOM, _KEPT)
    )
    return chosen, tokens, is_random, is_kept


def _draw_row(generator: Any, n: int, probability: float, n_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for one cell: four numbers a token."""
    uniform = torch.from_numpy(generator.random((n, 4)))
    tokens = (_FIRST_RANDOM + uniform[:, 1] * (n_tokens - _FIRST_RANDOM)).long()
    return uniform[:, 0] < probability, tokens, uniform[:, 2] < _RANDOM, uniform[:, 3] < _KEPT
