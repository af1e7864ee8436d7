"""Read-depth-aware recovery: a cell's expression from a shallower one with some of its genes hidden (scFoundation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.models.scfoundation.pretraining_scfoundation import read_depth_batch
from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, QueryDecoder, masked_mean_loss
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen
from scfm_hf.training.objectives.thinning import log_values, thinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.tokenization.draws import Draws, Stream
    from scfm_hf.training.objectives.cell_batch import CellBatch, Profile


@dataclass(frozen=True, kw_only=True)
class ReadDepth(Objective):
    """Thin the counts of some cells, hide genes, and predict their log values at the depth of the raw cell.

    scFoundation has its own batch and decoder. Any other encoder sees the shallow cell without the hidden genes; their
    values are told from the cell embedding, a query for each gene, and both depths.

    Parameters
    ----------
    probability, min_depth
        A cell with more than so many counts is made shallower with this probability, by a share of its counts that is
        drawn from Beta(2, 2).
    value_share, zero_share
        Parts of the genes with and without counts, in the shallow cell, that are hidden and predicted. With one share
        for both, the prediction is unbiased.
    max_genes
        Most genes that are predicted in a cell, of each kind.
    hidden_size
        Of the general head.

    References
    ----------
    Hao et al. 2024, Nature Methods 21, Methods, "Read-depth-aware pretraining".
    """

    probability: float = 0.5
    min_depth: int = 1000
    value_share: float = 0.3
    zero_share: float = 0.03
    max_genes: int = 512
    hidden_size: int = 64

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Thin cells and hide genes."""
        if cells.own_class is not None:
            raw = [{"input_ids": profile.gene_ids, "counts": profile.counts} for profile in cells.profiles]
            batch = read_depth_batch(raw, cells.config, draws=draws, cell_ids=cells.ids)
            labels = batch.pop("labels")
            return Prepared(batch, {"labels": labels})
        shallow, asked, wanted, depths = [], [], [], []
        for profile, cell_id in zip(cells.profiles, cells.ids, strict=True):
            stream = draws.cell(cell_id)
            given = self._shallower(profile, stream)
            hidden = self._hidden(given, cells.gene_ids, stream)
            asked.append(hidden)
            left = given.without(hidden)
            shallow.append(left if len(left.gene_ids) else given)
            wanted.append(log_values(profile.counts_of(hidden), profile.total))
            depths.append([np.log10(profile.total) - 3, np.log10(profile.total / given.total)])
        targets = {
            "query_ids": padded(asked, 0, np.int64),
            "values": padded(wanted, 0, np.float32),
            "counted": padded([np.ones(len(ids), bool) for ids in asked], False, np.bool_),
            "depths": torch.tensor(np.array(depths), dtype=torch.float32),
        }
        return Prepared(cells.pad(cells.encode(shallow)), targets)

    def head(self, shape: EncoderShape) -> nn.Module:
        """A value of each gene from the cell embedding and the depths."""
        return QueryDecoder(shape, 1, n_context=2, hidden_size=self.hidden_size)

    def loss(self, head: QueryDecoder, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error of the hidden genes' log values."""
        predicted = head(seen.outputs.cell_embedding, targets["query_ids"], targets["depths"])[..., 0]
        return masked_mean_loss((predicted.float() - targets["values"]).square(), targets["counted"])

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """ScFoundation's own loss."""
        outputs = model(**inputs, labels=targets["labels"])
        return outputs, outputs["loss"]

    def _shallower(self, profile: Profile, stream: Stream) -> Profile:
        if profile.total <= self.min_depth or stream.uniform(1)[0] >= self.probability:
            return profile
        return thinned(profile, stream.numpy.beta(2.0, 2.0), stream)

    def _hidden(self, given: Profile, gene_ids: np.ndarray, stream: Stream) -> np.ndarray:
        """Genes that are hidden, those with counts first."""
        parts = []
        for genes, share in (
            (given.gene_ids, self.value_share),
            (np.setdiff1d(gene_ids, given.gene_ids, assume_unique=True), self.zero_share),
        ):
            parts.append(genes[stream.choice(len(genes), min(int(len(genes) * share), self.max_genes))])
        return np.concatenate(parts)


OBJECTIVE = ReadDepth
