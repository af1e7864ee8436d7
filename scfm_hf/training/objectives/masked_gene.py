"""Masked gene: which gene stands at a place of the sentence that is hidden (BERT's objective over ranked genes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, TokenClassifier
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfm_hf.tokenization.draws import Draws, Stream
    from scfm_hf.training.objectives.cell_batch import CellBatch, Encoded


@dataclass(frozen=True, kw_only=True)
class MaskedGene(Objective):
    """Predict the genes at hidden places, by cross entropy over the vocabulary.

    Parameters
    ----------
    share
        Part of a cell's genes that is chosen, rounded, at least one.
    masked, replaced
        Probabilities that a chosen gene's place holds the mask, or another gene; else it stays. Where tokens have
        values, these stay in sight, but for GeneCompass, which predicts them as well.

    References
    ----------
    Devlin et al. 2019, BERT, section 3.1; Theodoris et al. 2023, Methods, "Geneformer pretraining".
    """

    share: float = 0.15
    masked: float = 0.8
    replaced: float = 0.1

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if not 0 < self.share <= 1 or not 0 <= self.masked <= 1 or not 0 <= self.replaced <= 1 - self.masked + 1e-9:
            raise ValueError(
                f"share={self.share} must be in (0, 1], masked={self.masked} and replaced={self.replaced} in [0, 1] "
                "and together at most 1."
            )

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Hide genes of each cell."""
        encoded, wanted = self.hide(cells, draws)
        targets = {"labels": padded(wanted, -100, np.int64)}
        if cells.own_class_takes("target_values"):
            # As GeneCompass, which hides the values too, and tells them back.
            values = [np.asarray(row, np.float32) for row in encoded["values"]]
            targets["target_values"] = padded(values, 0, np.float32)
            masked = [ids == cells.tokenizer.mask_token_id for ids in encoded["input_ids"]]
            encoded["values"] = [np.where(out, 0, row) for out, row in zip(masked, values, strict=True)]
        return Prepared(cells.pad(encoded), targets)

    def hide(self, cells: CellBatch, draws: Draws) -> tuple[Encoded, list[NDArray[np.int64]]]:
        """Cells with genes hidden, not padded, and the labels of their places, -100 where nothing is to be predicted.

        Raises
        ------
        ValueError
            If the vocabulary has no mask token.
        """
        mask_id = cells.tokenizer.mask_token_id
        if mask_id is None:
            raise ValueError(
                "masked_gene needs a mask token, and the tokenizer's vocabulary has none. Add one with "
                'tokenizer.add_special_tokens({"mask_token": "<mask>"}) and resize_token_embeddings, or take '
                "another objective (masked_value, binary_expression)."
            )
        encoded = dict(cells.whole)
        rows = [
            self._hide(np.asarray(ids, np.int64), cells, mask_id, draws.cell(cell_id))
            for ids, cell_id in zip(encoded["input_ids"], cells.ids, strict=True)
        ]
        encoded["input_ids"] = [hidden for hidden, _ in rows]
        return encoded, [labels for _, labels in rows]

    def head(self, shape: EncoderShape) -> nn.Module:
        """Scores of the vocabulary from the state of a place."""
        return TokenClassifier(shape)

    def loss(self, head: TokenClassifier, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross entropy over the chosen places."""
        labels = targets["labels"]
        places = labels != -100
        if not places.any():
            return head.bias.sum() * 0
        return nn.functional.cross_entropy(head(seen, places).float(), labels[places])

    def _hide(
        self, ids: NDArray[np.int64], cells: CellBatch, mask_id: int, stream: Stream
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One cell with genes hidden, and its labels."""
        places = np.flatnonzero(~np.isin(ids, cells.special_ids))
        n_chosen = min(len(places), max(1, round(self.share * len(places))))
        chosen = places[stream.choice(len(places), n_chosen)]
        fate = stream.uniform(n_chosen)
        others = cells.gene_ids[(stream.uniform(n_chosen) * len(cells.gene_ids)).astype(np.int64)]
        row, labels = ids.copy(), np.full(len(ids), -100, np.int64)
        labels[chosen] = ids[chosen]
        row[chosen] = np.where(
            fate < self.masked, mask_id, np.where(fate < self.masked + self.replaced, others, ids[chosen])
        )
        return row, labels


OBJECTIVE = MaskedGene
