"""Denoising: the counts of a cell from a thinned one (scPRINT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.models.scprint.training_scprint import drawn_passes
from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, TokenDecoder, masked_mean_loss
from scfm_hf.training.objectives.likelihoods import (
    COUNT_LIKELIHOODS,
    Likelihood,
    n_outputs,
    negative_log_likelihood,
)
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen
from scfm_hf.training.objectives.thinning import thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class Denoising(Objective):
    """Take away part of a cell's counts, and predict those that it had.

    scPRINT thins in its own way, keeps the genes whose count is gone, and has its own decoder, which is told the depth.
    Any other encoder sees the thinned cell, and the counts of the genes that are left to see are told from their
    states; see ``bottleneck`` for all others.

    Parameters
    ----------
    share
        Part of the counts that is taken away.
    likelihood
        ``nb`` or ``zinb``; scPRINT's own is that of its configuration.
    hidden_size
        Of the general head.

    References
    ----------
    Kalfon et al. 2025, Nature Communications 16, Methods, "Denoising task".
    """

    share: float = 0.6
    likelihood: Likelihood = "nb"
    hidden_size: int = 64

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.likelihood not in COUNT_LIKELIHOODS or not 0 < self.share < 1:
            raise ValueError(f"likelihood={self.likelihood!r} must be 'nb' or 'zinb', share={self.share} in (0, 1).")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Thin each cell."""
        if cells.own_class is not None:
            return self._as_scprint(cells, draws)
        profiles = cells.profiles
        drawn = [
            thinned(profile, 1 - self.share, draws.cell(cell_id))
            for profile, cell_id in zip(profiles, cells.ids, strict=True)
        ]
        encoded = cells.encode(drawn)
        sentences = [np.asarray(ids, np.int64) for ids in encoded["input_ids"]]
        counts = [profile.counts_of(ids) for profile, ids in zip(profiles, sentences, strict=True)]
        counted = [~np.isin(ids, cells.special_ids) for ids in sentences]
        targets = {
            "values": padded(counts, 0, np.float32),
            "counted": padded(counted, False, np.bool_),
            "depth": torch.tensor([profile.total / len(cells.gene_ids) for profile in profiles]),
        }
        return Prepared(cells.pad(encoded), targets)

    def head(self, shape: EncoderShape) -> nn.Module:
        """A count of each gene from its state."""
        return TokenDecoder(shape, n_outputs(self.likelihood), hidden_size=self.hidden_size)

    def loss(self, head: TokenDecoder, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean negative log likelihood of the counts before thinning."""
        each = negative_log_likelihood(self.likelihood, head(seen), targets["values"], targets["depth"])
        return masked_mean_loss(each, targets["counted"])

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """ScPRINT's own: the term of expression alone, at the depth and with the total of the whole cell."""
        outputs: Any = model(**inputs, total=targets["total"], labels=targets["values"])
        return outputs, outputs.terms["expression"]

    def _as_scprint(self, cells: CellBatch, draws: Draws) -> Prepared:
        encoded = dict(cells.whole)
        whole = [np.asarray(row, np.float32) for row in encoded["values"]]
        encoded["values"] = [
            _thinned_by_scprint(row, draws, name, self.share) for row, name in zip(whole, cells.ids, strict=True)
        ]
        total = torch.tensor([float(row.sum()) for row in whole])
        inputs = {**cells.pad(encoded), "depth": total}
        return Prepared(inputs, {"values": padded(whole, 0, np.float32), "total": total})


def _thinned_by_scprint(values: np.ndarray, draws: Draws, cell_id: str | int, share: float) -> np.ndarray:
    """Counts of one cell, thinned as scPRINT does."""
    of_cell = torch.from_numpy(values)[None]
    (made,) = drawn_passes(of_cell, draws=draws, cell_ids=[cell_id], masked=None, thinned=share)
    assert made.values is not None
    return made.values[0].numpy()


OBJECTIVE = Denoising
