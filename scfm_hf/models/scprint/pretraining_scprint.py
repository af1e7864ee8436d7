"""scPRINT with its pretraining heads: counts from genes, counts from the cell, labels of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scprint.decoders_scprint import CellCountDecoder, ClassDecoder, CountDecoder, CountDistribution
from scfm_hf.models.scprint.modeling_scprint import ScPrintModel, ScPrintPreTrainedModel
from scfm_hf.nn.count_distributions import expected_count, zero_inflated_negative_binomial_nll

if TYPE_CHECKING:
    from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig


@dataclass
class ScPrintPreTrainingOutput(CellExpressionOutput):
    """Output of all heads.

    Parameters
    ----------
    loss
        Mean negative log likelihood of ``labels`` over the real genes, scalar.
    mean, dispersion, zero_logits
        Of each gene's count, (n_cells, n_genes); ``predicted_values`` is the mean with the additional zeros.
    cell_mean, cell_dispersion, cell_zero_logits
        The same, predicted from the cell embedding.
    class_logits
        Scores of the leaf labels of each class, each (n_cells, n_labels).
    cell_states
        States of the cell tokens, (n_cells, n_cell_tokens, hidden_size).
    """

    mean: Tensor | None = None
    dispersion: Tensor | None = None
    zero_logits: Tensor | None = None
    cell_mean: Tensor | None = None
    cell_dispersion: Tensor | None = None
    cell_zero_logits: Tensor | None = None
    class_logits: dict[str, Tensor] | None = None
    cell_states: Tensor | None = None


class ScPrintForPreTraining(ScPrintPreTrainedModel):
    """The encoder with the pretraining heads."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__(config)
        size, dropout = config.hidden_size, float(config.hidden_dropout_prob)
        self.scprint = ScPrintModel(config)
        self.decoder = CountDecoder(size, dropout)
        self.cell_decoder = CellCountDecoder(size) if config.cell_values else None
        self.class_decoders = nn.ModuleDict(
            {
                name: ClassDecoder(size, config.class_hidden_sizes or [], n_labels, dropout)
                for name, n_labels in (config.class_sizes or {}).items()
            }
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        depth: Tensor | None = None,
        masked: Tensor | None = None,
        is_metacell: Tensor | None = None,
        cell_states: Tensor | None = None,
        total: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ScPrintPreTrainingOutput:
        """Encode cells and predict counts and labels.

        Parameters
        ----------
        input_ids, values, attention_mask, depth, masked, is_metacell, cell_states, output_attentions, \
output_hidden_states
            As of :class:`ScPrintModel`.
        total
            What a cell's predicted means add up to, (n_cells,); None: the sum of ``values``.
        labels
            Counts to be predicted, (n_cells, n_genes).
        """
        encoded = self.scprint(
            input_ids, values, attention_mask, depth, masked, is_metacell, cell_states,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if total is None:
            if values is None:
                raise ValueError("Without values=, say with total= what the predicted counts of each cell add up to.")
            total = (values * real).sum(1)
        cells, first = encoded.cell_states, self.scprint.first_class
        genes = encoded.last_hidden_state[:, self.scprint.n_cell_tokens :]
        counts = CountDistribution.of_scores(self.decoder(genes), total, attention_mask)
        of_cell: dict[str, Tensor] = {}
        if self.cell_decoder is not None:
            scores = self.cell_decoder(self.scprint.gene_encoder(input_ids), cells.mean(1))
            from_cell = CountDistribution.of_scores(scores, total, attention_mask)
            of_cell = {f"cell_{name}": value for name, value in vars(from_cell).items()}
        loss = None
        if labels is not None:
            losses = zero_inflated_negative_binomial_nll(labels, **vars(counts))
            loss = (losses * real).sum() / real.sum()
        return ScPrintPreTrainingOutput(
            loss=loss,
            predicted_values=expected_count(mean=counts.mean, zero_logits=counts.zero_logits),
            **vars(counts),
            **of_cell,
            class_logits={
                name: decoder(cells[:, first + place])
                for place, (name, decoder) in enumerate(self.class_decoders.items())
            },
            cell_states=cells,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
