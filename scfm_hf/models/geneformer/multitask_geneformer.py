"""Geneformer's multi-task cell classifier (Chen et al. 2024): one encoder, one linear head a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.geneformer.modeling_geneformer import GeneformerModel, GeneformerPreTrainedModel

if TYPE_CHECKING:
    from scfm_hf.models.geneformer.configuration_geneformer import GeneformerConfig


@dataclass
class MultiTaskOutput(ModelOutput):
    """Output of the multi-task classifier.

    Parameters
    ----------
    loss
        Weighted sum of the tasks' losses, scalar; only with ``labels``.
    logits
        One (n_cells, n_labels) a task, in the order of ``config.task_labels``.
    task_losses
        Weighted loss of each task, (n_tasks,); only with ``labels``.
    """

    loss: torch.FloatTensor | None = None
    logits: tuple[torch.FloatTensor, ...] | None = None
    task_losses: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class MultiTaskClassifier(nn.Module):
    """Pools a cell's tokens and gives the logits of every task."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__()
        self.pool_padding = config.pool_padding
        self.attention = nn.Linear(config.hidden_size, 1, bias=False) if config.task_pooling == "attention" else None
        self.dropout = nn.Dropout(
            config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        )
        self.tasks = nn.ModuleList(
            nn.Linear(config.hidden_size, n_labels) for n_labels in (config.task_labels or {}).values()
        )

    def forward(self, states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, ...]:
        """(n_cells, n_tokens, hidden_size) -> one (n_cells, n_labels) a task."""
        pooled = self.dropout(self._pool(states, attention_mask))
        return tuple(task(pooled) for task in self.tasks)

    def _pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.attention is None:
            return states[:, 0]
        scores = self.attention(states).squeeze(-1)
        if attention_mask is not None and not self.pool_padding:
            scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        return torch.einsum("bs,bsd->bd", scores.softmax(-1), states)


class GeneformerForMultiTaskClassification(GeneformerPreTrainedModel):
    """Labels cells for several tasks at once; the pretrained body is loaded, which the original forgets."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__(config)
        if not config.task_labels:
            raise ValueError('A multi-task model needs task_labels, such as {"cell_type": 9, "disease": 2}.')
        self.bert = GeneformerModel(config)
        self.classifier = MultiTaskClassifier(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MultiTaskOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells, n_tasks), -100 where a cell has no label."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state, attention_mask)
        loss = task_losses = None
        if labels is not None:
            weights = self.config.task_weights or [1.0] * len(logits)
            pairs = zip(weights, logits, labels.unbind(1), strict=True)
            task_losses = torch.stack(
                [weight * nn.functional.cross_entropy(scores.float(), wanted) for weight, scores, wanted in pairs]
            )
            loss = task_losses.sum()
        return MultiTaskOutput(
            loss, logits, task_losses, encoded.cell_embedding, encoded.hidden_states, encoded.attentions
        )
