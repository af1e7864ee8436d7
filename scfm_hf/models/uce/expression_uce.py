"""UCE's head that tells expressed genes from a cell's embedding: the pretraining task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.uce.modeling_uce import UceModel, UcePreTrainedModel
from scfm_hf.models.uce.proteins_uce import NormedPerceptron, ProteinEncoder
from scfm_hf.nn.pooling import unit_length

if TYPE_CHECKING:
    from scfm_hf.models.uce.configuration_uce import UceConfig


@dataclass
class UceExpressionOutput(CellExpressionOutput):
    """Output of the head.

    Parameters
    ----------
    loss
        Mean binary cross entropy over the labels that are not -100, scalar; only with ``labels``.
    logits, expressed_probability
        Of each gene that is asked for to be expressed, float, (n_cells, n_queries).
    predicted_values
        Nothing: UCE predicts no amount.
    """

    logits: Tensor | None = None


class ExpressionHead(nn.Module):
    """Whether a gene is expressed, from the cell's embedding and the gene's protein."""

    def __init__(self, config: UceConfig) -> None:
        super().__init__()
        self.normalize = config.normalize_queries
        self.encoder = ProteinEncoder(config)
        self.network = NormedPerceptron(
            [config.output_dim + config.hidden_size, *config.expression_sizes, 1],
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors of proteins, (..., token_dim) -> (..., hidden_size)."""
        return self.encoder(unit_length(vectors) if self.normalize else vectors)

    def forward(self, cells: Tensor, vectors: Tensor) -> Tensor:
        """(n_cells, output_dim) and (n_cells, n_queries, token_dim) -> logits, (n_cells, n_queries)."""
        genes = self.encode(vectors)
        cells = cells.unsqueeze(1).expand(-1, genes.shape[1], -1)
        return self.network(torch.cat([cells, genes], -1)).squeeze(-1)


class UceForPreTraining(UcePreTrainedModel):
    """Tells which genes a cell expresses, from its embedding and their proteins.

    The tokenizer's options ``withheld_share`` and ``n_queries`` make the sentences, queries and labels of pretraining.
    """

    def __init__(self, config: UceConfig) -> None:
        super().__init__(config)
        self.uce = UceModel(config)
        self.expression = ExpressionHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        query_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> UceExpressionOutput:
        """Tell expressed genes.

        Parameters
        ----------
        input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            See :meth:`UceModel.forward`.
        query_ids
            Genes asked for, int64, (n_cells, n_queries) or, the same for all cells, (n_queries,).
        labels
            1 where the gene is expressed, 0 where not, -100 where it does not count, (n_cells, n_queries).

        Raises
        ------
        ValueError
            If there is no query.
        """
        if query_ids is None:
            raise ValueError(
                "Say which genes to ask for with query_ids=; the tokenizer draws some with its option n_queries=."
            )
        encoded = self.uce(
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        # From the decoded first token, whatever recipe cell_embedding has.
        cells = unit_length(self.uce.decode(encoded.last_hidden_state[:, 0]))
        logits = self.predict(cells, query_ids)
        loss = None
        if labels is not None:
            counts = labels != -100
            each = nn.functional.binary_cross_entropy_with_logits(
                logits.float(), labels.clamp(min=0).float(), reduction="none"
            )
            loss = (each * counts).sum() / counts.sum().clamp(min=1)
        return UceExpressionOutput(
            loss=loss,
            logits=logits,
            expressed_probability=logits.sigmoid(),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def predict(self, cells: Tensor, query_ids: Tensor) -> Tensor:
        """Logits of genes in cells that are embedded already.

        Parameters
        ----------
        cells
            Cell embeddings of length 1, (n_cells, output_dim).
        query_ids
            (n_cells, n_queries) or (n_queries,).
        """
        if query_ids.ndim == 1:
            query_ids = query_ids.expand(len(cells), -1)
        return self.expression(cells, self.uce.embeddings.table(query_ids))
