"""Bottleneck: the counts of any genes of a cell from its embedding alone (scPRINT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, QueryDecoder, masked_mean_loss
from scfm_hf.training.objectives.likelihoods import (
    COUNT_LIKELIHOODS,
    Likelihood,
    n_outputs,
    negative_log_likelihood,
)
from scfm_hf.training.objectives.masked_value import draw_genes
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Objective):
    """Embed the whole cell, and predict the counts of genes from the embedding and a query for each.

    Nothing is hidden but by the width of the embedding.

    Parameters
    ----------
    share, max_genes
        Part of the vocabulary, expressed or not, that is asked for, and the most genes of it.
    likelihood
        ``nb`` or ``zinb``; scPRINT's own is that of its configuration, over the genes of the cell.
    hidden_size
        Of the general head.

    References
    ----------
    Kalfon et al. 2025, Nature Communications 16, Methods, "Bottleneck learning task".
    """

    share: float = 0.3
    max_genes: int = 512
    likelihood: Likelihood = "nb"
    hidden_size: int = 64

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.likelihood not in COUNT_LIKELIHOODS or not 0 < self.share <= 1:
            raise ValueError(f"likelihood={self.likelihood!r} must be 'nb' or 'zinb', share={self.share} in (0, 1].")

    def own_class(self, family: str, config: CellConfig) -> str | None:
        """Only models with a decoder of the cell embedding that has a weight."""
        has_decoder = getattr(config, "cell_values", False) and getattr(config, "cell_expression_weight", 0)
        return super().own_class(family, config) if has_decoder else None

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Choose genes to ask for."""
        if cells.own_class is not None:
            inputs = cells.pad(cells.whole)
            return Prepared(inputs, {"values": inputs["values"]})
        asked = [draw_genes(cells.gene_ids, self.share, self.max_genes, draws.cell(cell_id)) for cell_id in cells.ids]
        counts = [profile.counts_of(genes) for profile, genes in zip(cells.profiles, asked, strict=True)]
        targets = {
            "query_ids": padded(asked, 0, np.int64),
            "values": padded(counts, 0, np.float32),
            "depth": torch.tensor([profile.total / len(cells.gene_ids) for profile in cells.profiles]),
        }
        return Prepared(None, targets)

    def head(self, shape: EncoderShape) -> nn.Module:
        """A count of each gene from the cell embedding."""
        return QueryDecoder(shape, n_outputs(self.likelihood), hidden_size=self.hidden_size)

    def loss(self, head: QueryDecoder, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean negative log likelihood of the counts."""
        scores = head(seen.outputs.cell_embedding, targets["query_ids"])
        each = negative_log_likelihood(self.likelihood, scores, targets["values"], targets["depth"])
        return masked_mean_loss(each, torch.ones_like(each))

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """ScPRINT's own: the term of the counts from the cell embedding alone."""
        outputs: Any = model(**inputs, labels=targets["values"])
        return outputs, outputs.terms["cell_expression"]


OBJECTIVE = Bottleneck
