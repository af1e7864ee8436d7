"""Masked value: how much of a gene is expressed where that is hidden, on bins, other values or counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, QueryDecoder, TokenDecoder, mask_value_of, masked_mean_loss
from scfm_hf.training.objectives.likelihoods import LIKELIHOODS, Likelihood, n_outputs, negative_log_likelihood
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization.draws import Draws, Stream
    from scfm_hf.training.objectives.cell_batch import CellBatch, Profile


@dataclass(frozen=True, kw_only=True)
class MaskedValue(Objective):
    """Predict hidden values: squared error on the tokenizer's values, or the likelihood of raw counts.

    With ``mse`` a share of the tokens' values, as the tokenizer gives them (bins, log values, ...), is hidden; families
    with a value that means "hidden" see the gene with it, the others do not see the gene. With ``nb`` and ``zinb`` the
    genes are drawn from the whole vocabulary, expressed or not, so that zeros count as often as they come; the mean is
    proportional to the counts that are left to see.

    Parameters
    ----------
    share
        Part of the genes that is hidden: of the tokens (``mse``), of the vocabulary (``nb``, ``zinb``).
    likelihood
        ``mse``, ``nb`` or ``zinb``.
    max_genes
        Most genes of the vocabulary that are hidden in a cell (``nb``, ``zinb``).
    hidden_size
        Of the general head.

    References
    ----------
    Cui et al. 2024 (scGPT), Methods, equation 9 (squared error); Lopez et al. 2018 (scVI), equation 2 (ZINB).
    """

    share: float = 0.15
    likelihood: Likelihood = "mse"
    max_genes: int = 512
    hidden_size: int = 64

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood={self.likelihood!r} is none of {', '.join(map(repr, LIKELIHOODS))}.")
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share} must be between 0 and 1.")

    def own_class(self, family: str, config: CellConfig) -> str | None:
        """The family's own loss is that of its own values, not a likelihood of counts."""
        return super().own_class(family, config) if self.likelihood == "mse" else None

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Hide values of each cell."""
        return self._tokens(cells, draws) if self.likelihood == "mse" else self._counts(cells, draws)

    def head(self, shape: EncoderShape) -> nn.Module:
        """From the state of the hidden gene where it is seen, else from the cell embedding and a query for the gene."""
        decoder = TokenDecoder if self.likelihood == "mse" and shape.hides_values else QueryDecoder
        return decoder(shape, n_outputs(self.likelihood), hidden_size=self.hidden_size)

    def scores(self, head: Any, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """What the head gives for the genes that are asked for, (n_cells, n_genes, n_outputs)."""
        if "query_ids" in targets:
            return head(seen.outputs.cell_embedding, targets["query_ids"])
        return head(seen)

    def loss(self, head: Any, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean loss over the hidden values."""
        each = negative_log_likelihood(
            self.likelihood, self.scores(head, seen, targets), targets["values"], targets["depth"]
        )
        return masked_mean_loss(each, targets["hidden"])

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """The family's own loss: scGPT's finds the places by the value that stands there.

        A ``ForMaskedLM`` has a cross entropy over bins, with whole numbers as labels.
        """
        labels = targets["values"]
        if type(model).__name__.endswith("ForMaskedLM"):
            labels = labels.long().masked_fill(~targets["hidden"], -100)
        outputs = model(**inputs, labels=labels)
        return outputs, outputs["loss"]

    # ---------------------------------------------------------------------------------------------- values of tokens

    def _tokens(self, cells: CellBatch, draws: Draws) -> Prepared:
        encoded, mask_value = dict(cells.whole), mask_value_of(cells.config)
        if "values" not in encoded:
            raise ValueError(
                f"The tokens of {cells.family} have no values to hide: take masked_gene, or masked_value with "
                "likelihood='nb' on raw counts."
            )
        chosen = [
            self._choose(np.asarray(ids), np.asarray(values), cells, draws.cell(cell_id))
            for ids, values, cell_id in zip(encoded["input_ids"], encoded["values"], cells.ids, strict=True)
        ]
        values = [np.asarray(row) for row in encoded["values"]]
        depth = torch.ones(len(cells))
        if mask_value is not None:
            masked = [np.where(hidden, mask_value, row) for hidden, row in zip(chosen, values, strict=True)]
            inputs = cells.pad({**encoded, "values": masked})
            return Prepared(
                inputs, {"values": cells.pad({"values": values})["values"], "hidden": _bool(chosen), "depth": depth}
            )
        kept = {name: _without(rows, chosen) if np.ndim(rows[0]) else rows for name, rows in encoded.items()}
        asked = [np.asarray(ids, np.int64)[hidden] for ids, hidden in zip(encoded["input_ids"], chosen, strict=True)]
        wanted = [row[hidden] for row, hidden in zip(values, chosen, strict=True)]
        return Prepared(
            cells.pad(kept),
            {
                "query_ids": padded(asked, 0, np.int64),
                "values": padded(wanted, 0, np.float32),
                "hidden": _bool([np.ones(len(row), bool) for row in asked]),
                "depth": depth,
            },
        )

    def _choose(
        self, ids: NDArray[np.int64], values: NDArray[Any], cells: CellBatch, stream: Stream
    ) -> NDArray[np.bool_]:
        """Which tokens' values are hidden; at least one, and one stays."""
        maskable = ~np.isin(ids, cells.special_ids)
        if not cells.config.hides_zeros:
            maskable &= values > 0
        places = np.flatnonzero(maskable)
        n_hidden = min(max(1, round(self.share * len(places))), max(len(places) - 1, 0))
        hidden = np.zeros(len(ids), np.bool_)
        hidden[places[stream.choice(len(places), n_hidden)]] = True
        return hidden

    # ------------------------------------------------------------------------------------------------ counts of genes

    def _counts(self, cells: CellBatch, draws: Draws) -> Prepared:
        asked, left, wanted = [], [], []
        for profile, cell_id in zip(cells.profiles, cells.ids, strict=True):
            genes = draw_genes(cells.gene_ids, self.share, self.max_genes, draws.cell(cell_id))
            asked.append(genes)
            left.append(keep_one(profile, genes))
            wanted.append(profile.counts_of(genes).astype(np.float32))
        depth = torch.tensor([max(profile.total, 1.0) / len(cells.gene_ids) for profile in left])
        return Prepared(
            cells.pad(cells.encode(left)),
            {
                "query_ids": padded(asked, 0, np.int64),
                "values": padded(wanted, 0, np.float32),
                "hidden": _bool([np.ones(len(row), bool) for row in asked]),
                "depth": depth,
            },
        )


def draw_genes(gene_ids: NDArray[np.int64], share: float, limit: int, stream: Stream) -> NDArray[np.int64]:
    """A share of all genes, ascending; at least one."""
    n_genes = min(max(1, round(share * len(gene_ids))), limit)
    return np.sort(gene_ids[stream.choice(len(gene_ids), n_genes)])


def keep_one(profile: Profile, hidden: NDArray[np.int64]) -> Profile:
    """The profile without hidden genes; the whole one where nothing would be left, for no cell is empty."""
    left = profile.without(hidden)
    return left if len(left.gene_ids) else profile


def _without(rows: list[Any], hidden: list[NDArray[np.bool_]]) -> list[NDArray[Any]]:
    return [np.asarray(row)[~out] for row, out in zip(rows, hidden, strict=True)]


def _bool(rows: list[NDArray[np.bool_]]) -> Tensor:
    return padded(rows, False, np.bool_)


OBJECTIVE = MaskedValue
