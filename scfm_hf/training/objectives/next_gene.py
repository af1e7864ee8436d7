"""Next gene: which gene follows those before it (causal language modelling over ranked genes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from scfm_hf.models.registry import families
from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, TokenClassifier
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class NextGene(Objective):
    """Predict each gene of a sentence from those before it, by cross entropy over the vocabulary.

    A causal encoder sees the whole cell and predicts at every place. Any other would see what is to come: it gets the
    beginning of the cell, cut at a place that is drawn, and predicts the one gene that follows.

    References
    ----------
    Shen et al. 2023 (tGPT), Methods, "Autoregressive pretraining": the sum of log p(gene | genes before it).
    """

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """The cells as they are, or cut."""
        sentences = [np.asarray(ids, np.int64) for ids in cells.whole["input_ids"]]
        if families()[cells.family].causal:
            inputs = cells.pad(cells.whole)
            # The label of a place is the token that follows it; the own class shifts by itself.
            followed = sentences if cells.own_class else [np.append(ids[1:], -100) for ids in sentences]
            return Prepared(inputs, {"labels": padded(followed, -100, np.int64)})
        ends, labels = [], []
        for ids, cell_id in zip(sentences, cells.ids, strict=True):
            genes = np.flatnonzero(~np.isin(ids, cells.special_ids))
            if len(genes) < 2:
                raise ValueError(f"Cell {cell_id} has {len(genes)} genes: none follows another. Leave it out.")
            end = int(genes[1 + int(draws.cell(cell_id).uniform(1)[0] * (len(genes) - 1))])
            ends.append(end)
            labels.append(np.append(np.full(end - 1, -100), ids[end]))
        begun = {
            name: [np.asarray(row)[:end] for row, end in zip(rows, ends, strict=True)] if np.ndim(rows[0]) else rows
            for name, rows in cells.whole.items()
        }
        return Prepared(cells.pad(begun), {"labels": padded(labels, -100, np.int64)})

    def head(self, shape: EncoderShape) -> nn.Module:
        """Scores of the vocabulary from the state of the gene before."""
        return TokenClassifier(shape)

    def loss(self, head: TokenClassifier, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy over the places that something follows."""
        labels = targets["labels"]
        places = labels != -100
        return nn.functional.cross_entropy(head(seen, places).float(), labels[places])

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """The family's own loss."""
        outputs = model(**inputs, labels=targets["labels"])
        return outputs, outputs["loss"]


OBJECTIVE = NextGene
