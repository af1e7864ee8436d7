"""Contrastive: two views of a cell belong together, those of other cells do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.nn.losses import contrastive_loss
from scfm_hf.training.objectives.heads import EncoderShape, perceptron
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen
from scfm_hf.training.objectives.thinning import thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_hf.tokenization.draws import Draws, Stream
    from scfm_hf.training.objectives.cell_batch import CellBatch, Encoded

_VIEWS = ("genes", "counts", "dropout")


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Tell which of the second views of a batch is of the same cell, and the other way round.

    Parameters
    ----------
    view
        How two views differ: each shows a share of the ``genes``, or of the raw ``counts``; ``dropout``: both show the
        whole cell, and the encoder's dropout makes the difference (CellLM, scGPT).
    share
        Part of the genes or counts that a view shows.
    temperature
        Divides the cosine similarities.
    projection_size
        Width of a projection behind the cell embedding; 0: the embedding itself is compared.

    References
    ----------
    Chen et al. 2020, SimCLR, equation 1; Gao et al. 2021, SimCSE (dropout); Zhao et al. 2023 (CellLM), equation 3.
    """

    compares_cells: ClassVar[bool] = True

    view: Literal["genes", "counts", "dropout"] = "genes"
    share: float = 0.5
    temperature: float = 0.1
    projection_size: int = 64

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.view not in _VIEWS:
            raise ValueError(f"view={self.view!r} is none of {', '.join(map(repr, _VIEWS))}.")
        if not 0 < self.share <= 1 or self.temperature <= 0:
            raise ValueError(f"share={self.share} must be in (0, 1], temperature={self.temperature} above 0.")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Both views of all cells: the first views, then the second ones."""
        streams = [draws.cell(cell_id) for cell_id in cells.ids]
        if self.view == "counts":
            views = [
                [thinned(profile, self.share, stream) for profile, stream in zip(cells.profiles, streams, strict=True)]
                for _ in range(2)
            ]
            encoded = cells.encode([*views[0], *views[1]])
        else:
            whole = cells.whole
            encoded = {name: [*rows, *rows] for name, rows in whole.items()}
            if self.view == "genes":
                encoded = self._fewer_genes(encoded, cells, [*streams, *streams])
        return Prepared(cells.pad(encoded), {"view_of": torch.arange(len(cells)).repeat(2)})

    def head(self, shape: EncoderShape) -> nn.Module:
        """The projection."""
        if not self.projection_size:
            return nn.Identity()
        return perceptron(shape.embedding_size, self.projection_size)

    def loss(self, head: nn.Module, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy of finding the other view, over both directions."""
        first, second = head(seen.outputs.cell_embedding).float().chunk(2)
        losses = [contrastive_loss(one, other, self.temperature) for one, other in ((first, second), (second, first))]
        return torch.stack(losses).mean()

    def _fewer_genes(self, encoded: Encoded, cells: CellBatch, streams: list[Stream]) -> Encoded:
        """A share of each cell's genes, in their order; special tokens stay."""
        kept = []
        for ids, stream in zip(encoded["input_ids"], streams, strict=True):
            special = np.isin(ids, cells.special_ids)
            genes = np.flatnonzero(~special)
            chosen = genes[stream.choice(len(genes), max(1, round(self.share * len(genes))))]
            kept.append(np.sort(np.concatenate([np.flatnonzero(special), chosen])))
        return {
            name: [np.asarray(row)[places] for row, places in zip(rows, kept, strict=True)]
            if np.ndim(rows[0])
            else rows
            for name, rows in encoded.items()
        }


OBJECTIVE = Contrastive
