"""Triplets: cells of a class are nearer to each other than to cells of another (SCimilarity)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from scfm_hf.models.scimilarity.triplets_scimilarity import mine_triplets, triplet_losses
from scfm_hf.training.objectives.heads import EncoderShape, as_tensors
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class Triplets(Objective):
    """Draw a cell of the same class nearer than one of another, by a margin; the triplets are mined in the batch.

    Parameters
    ----------
    column
        Annotation with the class of a cell; cells without one are in no triplet.
    across
        Annotation with the study of a cell: pairs are then of two studies. None: of any two cells.
    margin, selection
        Of SCimilarity: ``semihard`` negatives are farther than the positive, by less than the margin; ``hard`` ones
        have any loss, ``hardest`` the largest.
    reads
        Objective whose pass through the encoder is looked at; None: one over the whole cells.

    References
    ----------
    Heimberg et al. 2025 (SCimilarity), Nature 638, Methods, "Triplet loss"; Schroff et al. 2015, FaceNet.
    """

    compares_cells: ClassVar[bool] = True

    column: str
    across: str | None = None
    margin: float = 0.05
    selection: Literal["semihard", "hard", "hardest"] = "semihard"
    reads: str | None = None

    @property
    def annotations(self) -> tuple[str, ...]:
        """Class, and study if asked for."""
        return (self.column, self.across) if self.across else (self.column,)

    @property
    def source(self) -> str | None:
        """See ``reads``."""
        return self.reads

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.selection not in ("semihard", "hard", "hardest") or self.margin <= 0:
            raise ValueError(
                f"selection={self.selection!r} must be 'semihard', 'hard' or 'hardest', margin={self.margin} above 0."
            )

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Classes of the cells."""
        found = {"classes": cells.codes(self.column)}
        if self.across:
            found["studies"] = cells.codes(self.across)
        return Prepared(None, as_tensors(found))

    def head(self, shape: EncoderShape) -> nn.Module:
        """None: the embedding itself is compared."""
        return nn.Identity()

    def loss(self, head: nn.Module, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of the triplets."""
        vectors = nn.functional.normalize(seen.outputs.cell_embedding.float(), dim=1)
        triplets = mine_triplets(
            vectors,
            targets["classes"],
            margin=self.margin,
            selection=self.selection,
            studies=targets.get("studies"),
            # In evaluation the same batch shall give the same loss.
            generator=None if seen.training else torch.Generator(vectors.device).manual_seed(0),
        )
        return triplet_losses(vectors, triplets, margin=self.margin).mean()


OBJECTIVE = Triplets
