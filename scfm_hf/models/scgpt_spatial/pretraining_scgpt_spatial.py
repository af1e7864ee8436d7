"""scGPT-spatial with all its heads and losses together, as it is pretrained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.scgpt_spatial.expression_scgpt_spatial import (
    ScGPTSpatialExpressionOutput,
    ScGPTSpatialWithDecoders,
)
from scfm_hf.nn.classifiers import DeepClassifier, reverse_gradient
from scfm_hf.nn.losses import elastic_cell_similarity

if TYPE_CHECKING:
    from scfm_hf.models.scgpt_spatial.configuration_scgpt_spatial import ScGPTSpatialConfig


class ScGPTSpatialForPreTraining(ScGPTSpatialWithDecoders):
    """All heads of the original: masked or generated expression, neighbours, cell classes, adversarial batches."""

    _keys_to_ignore_on_load_unexpected: Any = None

    def __init__(self, config: ScGPTSpatialConfig) -> None:
        super().__init__(config)
        size, depth = config.hidden_size, config.classifier_layers
        self.classifier = (
            DeepClassifier(size, config.num_labels, n_layers=depth) if config.pretraining_classifier else None
        )
        n_batches = config.num_adversarial_labels
        self.discriminator = (
            DeepClassifier(size, n_batches, n_layers=depth, activation=nn.LeakyReLU()) if n_batches else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        coordinates: Tensor | None = None,
        slide_index: Tensor | None = None,
        batch_index: Tensor | None = None,
        class_index: Tensor | None = None,
        generated_ids: Tensor | None = None,
        generated_mask: Tensor | None = None,
        cell_prompt: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScGPTSpatialExpressionOutput:
        """Predict expression, classes and batches.

        Parameters
        ----------
        input_ids, values, attention_mask, generated_ids, cell_prompt, inputs_embeds
            As of :class:`ScGPTSpatialModel`.
        coordinates, slide_index, batch_index
            As of :class:`ScGPTSpatialForExpressionPrediction`; ``batch_index`` is also what the adversarial classifier
            is to tell.
        class_index
            Class of each cell, int64, (n_cells,).
        generated_mask
            1 = real among the genes to be generated, (n_cells, n_generated); None: all are. Their losses count these.
        labels
            Expression to be predicted: of the genes in ``generated_ids`` where these are given, (n_cells, n_generated),
            else of all genes, (n_cells, n_tokens), compared where ``values`` is the mask value.
        output_attentions, output_hidden_states
            As of :class:`ScGPTSpatialModel`.

        Returns
        -------
        Predictions, those of genes to be generated behind the others where they are not fields of their own; with
        ``labels`` or ``class_index`` also losses.
        """
        encoded = self.scgpt_spatial(
            input_ids,
            values,
            attention_mask,
            generated_ids=generated_ids,
            cell_prompt=cell_prompt,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        genes, states = self._genes(input_ids, inputs_embeds), encoded.last_hidden_state
        n_given = genes.shape[1]
        if generated_ids is not None:
            genes = torch.cat([genes, self.scgpt_spatial.gene_encoder(generated_ids)], 1)
        cells = self.scgpt_spatial.pool(states[:, :n_given], values, attention_mask)
        predicted = self._decode(states, genes, cells, self._batch(batch_index), coordinates, slide_index)
        logits = None if self.classifier is None else self.classifier(cells)
        batch_logits = None if self.discriminator is None else self.discriminator(reverse_gradient(cells))

        losses: dict[str, Tensor] = {}
        if labels is not None and generated_ids is None:
            losses |= predicted.losses(labels, self._where_masked(values))
        elif labels is not None:
            real = torch.ones_like(labels) if generated_mask is None else generated_mask
            losses |= predicted.losses(labels, real.bool(), n_given)
        if class_index is not None and logits is not None:
            losses["class"] = nn.functional.cross_entropy(logits, class_index)
        if losses and batch_logits is not None and batch_index is not None:
            losses["batch"] = nn.functional.cross_entropy(batch_logits, batch_index)
        if losses and self.config.ecs_weight:
            losses["cell_similarity"] = elastic_cell_similarity(cells, self.config.ecs_threshold)
        fields = predicted.fields()
        values_of_all = fields.pop("predicted_values")
        assert values_of_all is not None
        return ScGPTSpatialExpressionOutput(
            loss=self._total(losses) if losses else None,
            predicted_values=values_of_all[:, :n_given],
            generated_values=None if generated_ids is None else values_of_all[:, n_given:],
            **fields,
            logits=logits,
            batch_logits=batch_logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )
