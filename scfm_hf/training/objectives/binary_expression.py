"""Binary expression: whether a cell expresses a gene that its sentence does not show (UCE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from scfm_hf.models.uce.queries_uce import split_genes
from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, QueryDecoder, masked_mean_loss
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class BinaryExpression(Objective):
    """Withhold part of a cell's genes, and tell them from genes that it does not express.

    Parameters
    ----------
    share
        Part of the expressed genes that is withheld; at least one stays.
    n_queries
        Genes asked for: half of them withheld ones, half not expressed.
    hidden_size
        Of the general head.

    References
    ----------
    Rosen et al. 2023, bioRxiv 2023.11.28.568918, Methods, "Training objective" (binary cross entropy).
    """

    share: float = 0.2
    n_queries: int = 200
    hidden_size: int = 64

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if not 0 < self.share < 1 or self.n_queries < 2:
            raise ValueError(f"share={self.share} must be between 0 and 1, n_queries={self.n_queries} at least 2.")

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Withhold genes of each cell."""
        genes, left, asked, labels = cells.gene_ids, [], [], []
        for profile, cell_id in zip(cells.profiles, cells.ids, strict=True):
            split = split_genes(
                np.searchsorted(genes, profile.gene_ids),
                len(genes),
                share=self.share,
                n_queries=self.n_queries,
                stream=draws.cell(cell_id),
            )
            kept = np.isin(np.arange(len(profile.gene_ids)), split.kept)
            left.append(profile.with_counts(np.where(kept, profile.counts, 0)))
            asked.append(genes[split.queries])
            labels.append(split.labels)
        targets = {"query_ids": padded(asked, 0, np.int64), "labels": padded(labels, -100, np.int64)}
        return Prepared(cells.pad(cells.encode(left)), targets)

    def head(self, shape: EncoderShape) -> nn.Module:
        """A logit of each gene from the cell embedding."""
        return QueryDecoder(shape, 1, hidden_size=self.hidden_size)

    def loss(self, head: QueryDecoder, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean binary cross entropy over the genes asked for."""
        logits = head(seen.outputs.cell_embedding, targets["query_ids"])[..., 0].float()
        labels = targets["labels"]
        each = nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
        return masked_mean_loss(each, labels != -100)

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """UCE's own loss."""
        outputs = model(**inputs, **targets)
        return outputs, outputs["loss"]


OBJECTIVE = BinaryExpression
