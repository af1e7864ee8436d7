"""Generative attention: the values of some genes of a cell, generated from the others (scGPT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.training.masking import split_cell
from scfm_hf.training.objectives.cell_batch import padded
from scfm_hf.training.objectives.heads import EncoderShape, QueryDecoder, masked_mean_loss
from scfm_hf.training.objectives.objective import Objective, Prepared, Seen
from scfm_hf.training.objectives.thinning import log_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch


@dataclass(frozen=True, kw_only=True)
class Generative(Objective):
    """Split each cell into genes that are perceived and genes whose values are generated from them.

    An scGPT with ``config.generative`` gets both sides, with its own attention: a generated gene sees the perceived
    ones and itself. Any other encoder sees the perceived side alone; the values of the other are told from the cell
    embedding, by a query for each gene. What is generated is the tokenizer's value, or where it has none the log of the
    raw counts scaled to 10,000.

    Parameters
    ----------
    shares
        Part of the genes that is generated: one of these is drawn for each cell.
    max_length
        Most tokens of both sides together, more are left out at random; None: no limit.
    hidden_size
        Of the general head.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Generative pretraining", equations 8 and 9.
    """

    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    max_length: int | None = None
    hidden_size: int = 64

    def check(self) -> None:
        """Raise ValueError if a share is out of range."""
        super().check()
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"shares={self.shares} must be numbers between 0 and 1.")

    def own_class(self, family: str, config: CellConfig) -> str | None:
        """Only models with the embedding of genes to be generated have this attention."""
        return super().own_class(family, config) if getattr(config, "generative", False) else None

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Split each cell."""
        whole = cells.whole
        kept: list[np.ndarray] = []
        asked: list[np.ndarray] = []
        values: list[np.ndarray] = []
        for row, (ids, cell_id) in enumerate(zip(whole["input_ids"], cells.ids, strict=True)):
            ids = np.asarray(ids, np.int64)
            special = np.isin(ids, cells.special_ids)
            genes = np.flatnonzero(~special)
            limit = len(genes) if self.max_length is None else self.max_length - int(special.sum())
            seen, hidden = split_cell(len(genes), limit, self.shares, draws.cell(cell_id))
            kept.append(np.sort(np.concatenate([np.flatnonzero(special), genes[seen]])))
            asked.append(ids[genes[hidden]])
            values.append(self._values(cells, row, genes[hidden], asked[-1]))
        perceived = {
            name: [np.asarray(row)[places] for row, places in zip(rows, kept, strict=True)]
            if np.ndim(rows[0])
            else rows
            for name, rows in whole.items()
        }
        inputs = cells.pad(perceived)
        targets = {
            "generated_ids": padded(asked, cells.tokenizer.pad_token_id or 0, np.int64),
            "generated_mask": padded([np.ones(len(ids)) for ids in asked], 0, np.int64),
            "values": padded(values, 0, np.float32),
        }
        return Prepared(inputs, targets)

    def head(self, shape: EncoderShape) -> nn.Module:
        """A value of each gene from the cell embedding."""
        return QueryDecoder(shape, 1, hidden_size=self.hidden_size)

    def loss(self, head: QueryDecoder, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error of the generated values."""
        predicted = head(seen.outputs.cell_embedding, targets["generated_ids"])[..., 0]
        return masked_mean_loss((predicted.float() - targets["values"]).square(), targets["generated_mask"])

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """ScGPT's own losses of generated genes."""
        generated = {name: targets[name] for name in ("generated_ids", "generated_mask")}
        outputs = model(**inputs, **generated, labels=targets["values"])
        return outputs, outputs["loss"]

    def _values(self, cells: CellBatch, row: int, places: np.ndarray, gene_ids: np.ndarray) -> np.ndarray:
        """What is to be generated for genes of one cell."""
        of_tokens: Any = cells.whole.get("values")
        if of_tokens is not None:
            return np.asarray(of_tokens[row], np.float32)[places]
        profile = cells.profiles[row]
        return log_values(profile.counts_of(gene_ids), profile.total)


OBJECTIVE = Generative
