"""Adversarial batch: the embedding is trained so that no classifier can tell the batch from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from scfm_hf.nn.classifiers import DeepClassifier, reverse_gradient
from scfm_hf.training.objectives.heads import EncoderShape, as_tensors
from scfm_hf.training.objectives.multi_task import known_cross_entropy
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class AdversarialBatch(Objective):
    """A classifier learns the batch from the cell embedding; the encoder gets its gradient reversed.

    The loss that is reported is the classifier's: the larger it is (up to log of the number of batches), the less the
    embedding says of the batch.

    Parameters
    ----------
    column
        Annotation with the batch of a cell; cells without one do not count.
    strength
        Factor of the reversed gradient.
    reads
        Objective whose pass through the encoder is looked at; None: one over the whole cells.

    References
    ----------
    Ganin and Lempitsky 2015, equations 4 to 6; Cui et al. 2024 (scGPT), Methods, "Domain adaptation by reverse
    back-propagation".
    """

    column: str
    strength: float = 1.0
    reads: str | None = None

    @property
    def annotations(self) -> tuple[str, ...]:
        """The batch."""
        return (self.column,)

    @property
    def source(self) -> str | None:
        """See ``reads``."""
        return self.reads

    def check(self) -> None:
        """Raise ValueError if the strength is negative."""
        super().check()
        if self.strength < 0:
            raise ValueError(f"strength={self.strength} must be 0 or more.")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Batches of the cells."""
        return Prepared(None, as_tensors({"classes": cells.codes(self.column)}))

    def head(self, shape: EncoderShape) -> nn.Module:
        """The classifier that is fooled."""
        size = shape.embedding_size
        return DeepClassifier(size, len(shape.classes[self.column]), n_layers=3, activation=nn.LeakyReLU())

    def loss(self, head: nn.Module, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy over the cells whose batch is known."""
        return known_cross_entropy(
            head(reverse_gradient(seen.outputs.cell_embedding, self.strength)), targets["classes"]
        )


OBJECTIVE = AdversarialBatch
