"""scGPT's perturbation model: the expression after a perturbation from the expression before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.scgpt.expression_scgpt import ScGPTExpressionOutput, ScGPTWithDecoders
from scfm_hf.nn.classifiers import DeepClassifier
from scfm_hf.nn.losses import masked_mse
from scfm_hf.nn.value_decoders import draw_expressed

if TYPE_CHECKING:
    from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig


class ScGPTForPerturbation(ScGPTWithDecoders):
    """Predicts expression after a perturbation; values are log-normalised, and there is no ``<cls>``."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^discriminator\."]  # noqa: RUF012

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, depth = config.hidden_size, config.classifier_layers
        self.classifier = (
            DeepClassifier(size, config.num_labels, n_layers=depth) if config.pretraining_classifier else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        perturbation_flags: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        draw_zeros: bool = False,
        generator: torch.Generator | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScGPTExpressionOutput:
        """Predict the response.

        Parameters
        ----------
        input_ids
            Genes, int64, (n_cells, n_tokens); genes that the vocabulary lacks have the id of padding, and count.
        values
            Log-normalised expression before, (n_cells, n_tokens).
        attention_mask
            1 = real token; None: all are.
        perturbation_flags
            1 where a gene is perturbed, int64, (n_cells, n_tokens).
        inputs_embeds
            As of :class:`ScGPTModel`.
        labels
            Expression after, (n_cells, n_tokens); the loss is the mean squared error over all real tokens.
        draw_zeros, generator
            Set values to 0 by a draw from the probability of being expressed, as the original does wherever a model has
            it; the draws go through the batch in order.
        output_attentions, output_hidden_states
            As of :class:`ScGPTModel`.
        """
        encoded = self.scgpt(
            input_ids,
            values,
            attention_mask,
            perturbation_flags=perturbation_flags,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        genes = self._genes(input_ids, inputs_embeds)
        cells = self._embedding_for_heads(encoded.last_hidden_state, values, attention_mask)
        found = vars(self._decode(encoded.last_hidden_state, genes, cells, values, None))
        predicted, probability = found.pop("predicted_values"), found["expressed_probability"]
        if draw_zeros:
            predicted = draw_expressed(predicted, probability, generator)
        loss = None
        if labels is not None:
            real = torch.ones_like(labels) if attention_mask is None else attention_mask
            loss = masked_mse(predicted, labels, real)
        return ScGPTExpressionOutput(
            loss=loss,
            predicted_values=predicted,
            **found,
            logits=None if self.classifier is None else self.classifier(cells),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @torch.no_grad()
    def predict(
        self,
        input_ids: Tensor,
        values: Tensor,
        perturbation_flags: Tensor,
        *,
        genes: Literal["all", "expressed", "expressed_in_batch"] = "all",
    ) -> Tensor:
        """Expression after a perturbation of every gene, (n_cells, n_genes).

        Parameters
        ----------
        input_ids
            Genes, int64, (n_genes,).
        values, perturbation_flags
            (n_cells, n_genes).
        genes
            Which genes the model sees; the others are predicted 0. ``expressed``: those that the cell expresses.
            ``expressed_in_batch``: those that any cell of the batch expresses, as the original's "batch-wise"; a cell's
            result then depends on its batch.
        """
        together = [slice(0, len(values))]
        one_by_one = [slice(row, row + 1) for row in range(len(values))]
        predicted = torch.zeros_like(values)
        for rows in one_by_one if genes == "expressed" else together:
            seen = torch.ones_like(input_ids, dtype=torch.bool) if genes == "all" else (values[rows] != 0).any(0)
            if seen.any():
                flags = perturbation_flags[rows, seen]
                ids = input_ids[seen].expand(len(flags), -1)
                predicted[rows, seen] = self(ids, values[rows, seen], perturbation_flags=flags).predicted_values
        return predicted
