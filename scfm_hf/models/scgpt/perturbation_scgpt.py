"""scGPT's perturbation model: the expression after a perturbation from the expression before it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.models.scgpt.pretraining_scgpt import ScGPTExpressionOutput, ScGPTWithHeads, draw_expressed
from scfm_hf.nn.classifiers import DeepClassifier


class ScGPTForPerturbation(ScGPTWithHeads):
    """Predicts expression after a perturbation; values are log-normalised, and there is no ``<cls>``.

    Where the model has a probability of being expressed, values are drawn by it in evaluation, as in the original; ``draw_zeros=False``
    gives the expected way without a draw.
    """

    _keys_to_ignore_on_load_unexpected = [r"^discriminator\."]  # noqa: RUF012

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.classifier = (
            DeepClassifier(size, config.num_labels, n_layers=config.classifier_layers)
            if config.pretraining_classifier
            else None
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
        labels
            Expression after, (n_cells, n_tokens); the loss is the mean squared error over all genes.
        draw_zeros, generator
            Set values to 0 by a draw from the probability of being expressed.
        """
        encoded = self.scgpt(
            input_ids,
            values,
            attention_mask,
            perturbation_flags=perturbation_flags,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        genes = self.scgpt.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds
        cells = self._plain_embedding(encoded, values, attention_mask, genes.shape[1])
        decoded = self._decode(encoded.last_hidden_state, genes, cells, values, None)
        if draw_zeros:
            decoded["predicted_values"] = draw_expressed(
                decoded["predicted_values"], decoded["expressed_probability"], generator
            )
        loss = None if labels is None else nn.functional.mse_loss(decoded["predicted_values"], labels)
        return ScGPTExpressionOutput(
            loss=loss,
            **decoded,
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
            Which genes the model sees; the others are predicted 0. ``expressed``: those that the cell expresses. ``expressed_in_batch``:
            those that any cell of the batch expresses, as the original's "batch-wise"; a cell's result then depends on its batch.
        """
        if genes == "all":
            return self(input_ids.expand(len(values), -1), values, perturbation_flags=perturbation_flags).predicted_values
        predicted = torch.zeros_like(values)
        parts = [slice(0, len(values))] if genes == "expressed_in_batch" else [slice(i, i + 1) for i in range(len(values))]
        for rows in parts:
            chosen = (values[rows] != 0).any(0).nonzero().squeeze(1)
            ids = input_ids[chosen].expand(len(values[rows]), -1)
            flags = perturbation_flags[rows][:, chosen]
            predicted[rows.start : rows.stop, chosen] = self(ids, values[rows][:, chosen], perturbation_flags=flags).predicted_values
        return predicted
