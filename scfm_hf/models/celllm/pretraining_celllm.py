"""Pretraining of CellLM, written from the paper: its code was never released.

Three losses: masked values, tumour or normal tissue, and a contrast between two views of each cell. The contrast needs
many cells at a time; "divide and conquer" computes its exact gradient with the memory of a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.celllm.modeling_celllm import CellLMModel, CellLMPreTrainedModel
from scfm_hf.nn.losses import contrastive_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scfm_hf.models.celllm.configuration_celllm import CellLMConfig
    from scfm_hf.tokenization.draws import Draws


@dataclass
class CellLMPreTrainingOutput(ModelOutput):
    """Output of the pretraining model.

    Parameters
    ----------
    loss
        Weighted sum of ``losses``, scalar.
    logits
        Scores of the tokens of expression, float, (n_cells, n_tokens, num_values).
    tissue_logits
        Scores of normal and tumour tissue, float, (n_cells, 2).
    view_embedding
        Cell embedding of the second view, (n_cells, hidden_size); only in training with a contrast.
    cell_embedding, hidden_states, attentions
        As of the encoder, of the first view.
    losses
        Those that were computed: ``masked``, ``tissue``, ``contrastive``, each a scalar.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    tissue_logits: Tensor | None = None
    view_embedding: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None


class CellLMForPreTraining(CellLMPreTrainedModel):
    """Predicts masked values and the kind of tissue, and tells cells apart by two views of each.

    The views differ by dropout alone, so that a contrast needs ``config.hidden_dropout_prob`` above 0. With
    ``config.cells_per_chunk`` the batch is encoded chunk by chunk and only embeddings are kept; the loss over all of
    them gives each embedding its gradient, and each chunk is encoded once more, with the same dropout, to pass it on:
    the gradient is that of the whole batch.

    References
    ----------
    Zhao et al. 2023, "Large-Scale Cell Representation Learning via Divide-and-Conquer Contrastive Learning".
    Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
    """

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__(config)
        self.celllm = CellLMModel(config)
        self.value_head = nn.Linear(config.hidden_size, config.num_values)
        self.tissue_head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        tissues: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellLMPreTrainingOutput:
        """Encode cells, and compute the losses that there are labels for; in training the contrast too.

        Parameters
        ----------
        input_ids, values, attention_mask, inputs_embeds
            As of :meth:`CellLMModel.forward`; see :func:`mask_values`.
        labels
            Tokens of expression, int64, (n_cells, n_tokens), -100 where nothing is to be predicted.
        tissues
            0 = normal, 1 = tumour, int64, (n_cells,); -100 where it is not known.
        output_attentions, output_hidden_states
            As of :meth:`CellLMModel.forward`; the batch then goes through whole.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("Give the genes of the cells as input_ids= or as inputs_embeds=.")
        asked = (
            self.config.output_attentions if output_attentions is None else output_attentions,
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        size = len(given) if any(asked) else self.config.cells_per_chunk or len(given)
        inputs = (input_ids, values, attention_mask, inputs_embeds)
        chunks = [
            self._encode(*(None if one is None else one[start : start + size] for one in inputs), asked=asked)
            for start in range(0, len(given), size)
        ]
        logits, first, second = (
            None if parts[0] is None else torch.cat(parts)
            for parts in zip(*(chunk[:3] for chunk in chunks), strict=True)
        )
        assert logits is not None
        assert first is not None
        tissue_logits = self.tissue_head(first)
        losses: dict[str, Tensor] = {}
        if labels is not None:
            losses["masked"] = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        if tissues is not None:
            losses["tissue"] = nn.functional.cross_entropy(tissue_logits.float(), tissues)
        if second is not None:
            losses["contrastive"] = contrastive_loss(first.float(), second.float(), self.config.contrastive_temperature)
        weights = {name: getattr(self.config, f"{name}_weight") for name in losses}
        loss = sum((weights[name] * value for name, value in losses.items()), start=first.new_zeros(()))
        return CellLMPreTrainingOutput(
            loss if losses else None, logits, tissue_logits, second, first, *chunks[0][3:], losses or None
        )

    def _encode(self, *inputs: Tensor | None, asked: tuple[bool, bool]) -> tuple[Any, ...]:
        """Logits of the values, the embeddings of both views, inner states and attentions of a chunk of cells."""

        def views(*inputs: Tensor | None) -> tuple[Any, ...]:
            encoded = self.celllm(*inputs, *asked, return_dict=True)
            contrasts = self.training and self.config.contrastive_weight > 0
            again = self.celllm(*inputs, return_dict=True).cell_embedding if contrasts else None
            logits = self.value_head(encoded.last_hidden_state)
            return logits, encoded.cell_embedding, again, encoded.hidden_states, encoded.attentions

        if self.config.cells_per_chunk is None or any(asked) or not torch.is_grad_enabled():
            return views(*inputs)
        return checkpoint(views, *inputs, use_reentrant=False)


def mask_values(
    values: Tensor,
    config: CellLMConfig,
    *,
    share: float = 0.15,
    draws: Draws,
    cell_ids: Sequence[str | int],
) -> tuple[Tensor, Tensor]:
    """Hide the expression of some genes of each cell.

    Parameters
    ----------
    values
        Tokens of expression, int64, (n_cells, n_tokens).
    config
        Names the tokens of the mask, of ``<cls>`` and of padding.
    share
        Part of a cell's genes that is hidden, rounded up; the paper's is not known here, scBERT's is 0.15.
    draws, cell_ids
        Where the choice is drawn from, one a cell. Give each epoch a step of its own.

    Returns
    -------
    Values with tokens hidden, and labels: the true tokens of those, -100 elsewhere.
    """
    hidden, labels = values.clone(), torch.full_like(values, -100)
    special = torch.tensor([config.cls_value_id, config.pad_value_id])
    for row, cell_id in enumerate(cell_ids):
        places = (~torch.isin(values[row].cpu(), special)).nonzero()[:, 0].numpy()
        chosen = draws.cell(cell_id).choice(len(places), int(np.ceil(share * len(places))))
        drawn = torch.from_numpy(places[chosen]).to(values.device)
        labels[row, drawn] = values[row, drawn]
        hidden[row, drawn] = config.mask_value_id
    return hidden, labels
