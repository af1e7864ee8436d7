"""The terms of scPRINT's loss that no other family has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scfm_hf.nn.losses import contrastive_loss
from scfm_hf.nn.pooling import unit_length

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Total that profiles are scaled to before their errors are squared.
_PROFILE_TOTAL = 10_000.0


def hierarchical_loss(
    logits: Tensor, classes: Tensor, groups: Mapping[str, Sequence[int]], *, counts_groups: bool = False
) -> Tensor:
    """Binary cross entropy of labels that may be leaves or groups of leaves, scalar.

    A leaf must score high and the others low. Of a group it is the log-sum-exp of its leaves that must score high, and
    none of them is punished. A cell without a label costs nothing, but counts in the mean.

    Parameters
    ----------
    logits
        Of the leaves, (n_cells, n_leaves).
    classes
        -1 unknown; a leaf, or the number of a group, int64, (n_cells,).
    groups
        Number of a group, as text -> its leaves.
    counts_groups
        Where any cell has a group, divide by one number more a cell, as the original does: what a cell costs then
        depends on the others.

    Raises
    ------
    ValueError
        If a number is of no leaf and no group.
    """
    n_leaves = logits.shape[1]
    wanted = nn.functional.one_hot(classes.clamp(0, n_leaves - 1), n_leaves).to(logits.dtype)
    is_leaf, known = (classes >= 0) & (classes < n_leaves), classes >= 0
    wanted = wanted * is_leaf[:, None]
    weights = known[:, None].to(logits.dtype).expand(-1, n_leaves)
    in_group = classes >= n_leaves
    if in_group.any():
        members = torch.zeros(len(logits), n_leaves, dtype=torch.bool, device=logits.device)
        for number in classes[in_group].unique().tolist():
            if str(number) not in groups:
                raise ValueError(f"There is no label {number}: {n_leaves} leaves, and groups {', '.join(groups)}.")
            members[(classes == number).nonzero(), torch.tensor(groups[str(number)], device=logits.device)] = True
        weights = weights.masked_fill(members, 0)
        lowest = torch.finfo(logits.dtype).min
        of_group = logits.masked_fill(~members, lowest).logsumexp(1)
        logits = torch.cat([logits, torch.where(in_group, of_group, 0)[:, None]], 1)
        column = in_group.to(logits.dtype)[:, None]
        wanted, weights = torch.cat([wanted, column], 1), torch.cat([weights, column], 1)
    costs = nn.functional.binary_cross_entropy_with_logits(logits, wanted, weight=weights, reduction="sum")
    return costs / (logits.numel() if counts_groups else len(logits) * n_leaves)


def dissimilarity_loss(cell_states: Tensor, *, first_version: bool = False) -> Tensor:
    """How alike the tokens of a cell are, scalar; small where each says something of its own.

    0.5 mean(cosine^2) + 0.5 / mean(distance), over cells and pairs of tokens; in version 1 the mean of |cosine|. A
    token and itself count as unlike.

    Parameters
    ----------
    cell_states
        (n_cells, n_cell_tokens, hidden_size).
    """
    n_tokens, size = cell_states.shape[1:]
    unit = unit_length(cell_states)
    off_diagonal = ~torch.eye(n_tokens, dtype=torch.bool, device=unit.device)
    cosine = (unit @ unit.transpose(1, 2)) * off_diagonal
    if first_version:
        return cosine.abs().mean()
    differences = cell_states[:, :, None] - cell_states[:, None]
    squares = differences.square().sum(-1)
    # No square root of 0: its gradient is none.
    equal = squares == 0
    distance = (squares + equal).sqrt() * ~equal / size**0.5 + 1e-3
    return 0.5 * cosine.square().mean() + 0.5 / distance.mean()


def contrast_of_passes(embeddings: Sequence[Tensor], temperature: float, *, first_version: bool = False) -> Tensor:
    """How badly cells are told apart from one pass to another, mean over the pairs of passes, scalar.

    Parameters
    ----------
    embeddings
        Of the passes over the same cells, each (n_cells, hidden_size).
    temperature
        Divides the cosines.
    first_version
        Cosines along the cells, as version 1 takes them by mistake, and a quarter of the mean.
    """
    pairs = [(one, other) for place, one in enumerate(embeddings) for other in embeddings[place + 1 :]]
    if not first_version:
        return torch.stack([contrastive_loss(one, other, temperature) for one, other in pairs]).mean()
    terms = []
    for one, other in pairs:
        logits = nn.functional.cosine_similarity(one[:, None], other[None], dim=1) / temperature
        terms.append(nn.functional.cross_entropy(logits, torch.arange(len(one), device=one.device)))
    return torch.stack(terms).mean() / 4


def profile_error(counts: Tensor, mean: Tensor, zero_logits: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of profiles on a logarithmic scale, scaled to a total of 10,000, scalar.

    Parameters
    ----------
    counts, mean, zero_logits
        (n_cells, n_genes).
    real
        1 at real genes, same shape.
    """

    def scaled(values: Tensor) -> Tensor:
        logs = torch.log2(1 + values) * real
        return logs / logs.sum(1, keepdim=True).clamp(min=torch.finfo(logs.dtype).tiny) * _PROFILE_TOTAL

    predicted = torch.log1p(mean) * torch.sigmoid(-zero_logits)
    error = (scaled(predicted) - scaled(torch.log1p(counts))).square()
    return (error * real).sum() / real.sum().clamp(min=1)
