"""Multi-task labels: several annotations of a cell, told from its embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from scfm_hf.training.objectives.heads import EncoderShape, as_tensors, perceptron
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class MultiTask(Objective):
    """Predict the class of each cell in each of several annotations, by cross entropy.

    Parameters
    ----------
    columns
        The annotations. A cell whose class is not known (missing, or -100) does not count for that one.
    hidden_size
        Width of two hidden layers; 0: a linear layer.
    reads
        Objective whose pass through the encoder is looked at; None: one over the whole cells.

    References
    ----------
    Chen et al. 2024 (Geneformer V2), Methods, "Multi-task learning"; Kalfon et al. 2025 (scPRINT), Methods.
    """

    columns: Sequence[str]
    hidden_size: int = 0
    reads: str | None = None

    @property
    def annotations(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.columns)

    @property
    def source(self) -> str | None:
        """See ``reads``."""
        return self.reads

    def check(self) -> None:
        """Raise ValueError if there is no column."""
        super().check()
        if isinstance(self.columns, str) or not self.columns:
            raise ValueError(f"columns={self.columns!r} must be a list of at least one annotation.")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Classes of the cells."""
        return Prepared(None, as_tensors({column: cells.codes(column) for column in self.columns}))

    def head(self, shape: EncoderShape) -> nn.Module:
        """One classifier an annotation."""
        return LabelClassifiers(shape, self.columns, hidden_size=self.hidden_size)

    def loss(self, head: nn.Module, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean over annotations of the mean cross entropy over the cells whose class is known."""
        logits = head(seen.outputs.cell_embedding)
        losses = [known_cross_entropy(one, targets[column]) for one, column in zip(logits, self.columns, strict=True)]
        return sum(losses[1:], start=losses[0]) / len(losses)


class LabelClassifiers(nn.Module):
    """A classifier of the cell embedding for each annotation."""

    def __init__(self, shape: EncoderShape, columns: Sequence[str], *, hidden_size: int) -> None:
        super().__init__()
        size = shape.embedding_size
        numbers = [len(shape.classes[column]) for column in columns]
        self.classifiers = nn.ModuleList(
            perceptron(size, n_classes, hidden_size=hidden_size) if hidden_size else nn.Linear(size, n_classes)
            for n_classes in numbers
        )

    def forward(self, cells: Tensor) -> list[Tensor]:
        """(n_cells, embedding_size) -> scores of each annotation's classes."""
        return [classifier(cells) for classifier in self.classifiers]


def known_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy over the cells whose class is not -100, scalar; 0 if there is none."""
    known = (classes != -100).sum().clamp(min=1)
    return nn.functional.cross_entropy(logits.float(), classes, reduction="sum", ignore_index=-100) / known


OBJECTIVE = MultiTask
