"""Adversarial batch: the embedding is trained so that no classifier can tell the batch from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scfm_hf.nn.classifiers import reverse_gradient
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
    pace
        How many times as large the classifier's steps are as the encoder's: one that lags behind is fooled without the
        batch leaving the embedding. Large batches help too.
    hidden_size
        Width of the classifier's two hidden layers.
    reads
        Objective whose pass through the encoder is looked at; None: one over the whole cells.

    References
    ----------
    Ganin and Lempitsky 2015, equations 4 to 6; Cui et al. 2024 (scGPT), Methods, "Domain adaptation by reverse
    back-propagation".
    """

    column: str
    strength: float = 1.0
    pace: float = 5.0
    hidden_size: int = 64
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
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.strength < 0 or self.pace <= 0:
            raise ValueError(f"strength={self.strength} must be 0 or more, pace={self.pace} above 0.")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Batches of the cells."""
        return Prepared(None, as_tensors({"classes": cells.codes(self.column)}))

    def head(self, shape: EncoderShape) -> nn.Module:
        """The classifier that is fooled."""
        sizes = [shape.embedding_size, self.hidden_size, self.hidden_size, len(shape.classes[self.column])]
        layers = [PacedLinear(before, after, pace=self.pace) for before, after in pairwise(sizes)]
        return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])

    def loss(self, head: nn.Module, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy over the cells whose batch is known."""
        return known_cross_entropy(
            head(reverse_gradient(seen.outputs.cell_embedding, self.strength)), targets["classes"]
        )


class PacedLinear(nn.Linear):
    """A linear layer that an optimiser such as Adam moves faster, as its weights are stored divided by a factor.

    Parameters
    ----------
    n_inputs, n_outputs
        Sizes.
    pace
        The factor.

    References
    ----------
    Karras et al. 2018, "Progressive Growing of GANs", section 4.1.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, pace: float) -> None:
        super().__init__(n_inputs, n_outputs)
        self.pace = pace
        with torch.no_grad():
            self.weight.div_(pace)
            self.bias.div_(pace)

    def forward(self, values: Tensor) -> Tensor:
        """(..., n_inputs) -> (..., n_outputs)."""
        return nn.functional.linear(values, self.weight * self.pace, self.bias * self.pace)


OBJECTIVE = AdversarialBatch
