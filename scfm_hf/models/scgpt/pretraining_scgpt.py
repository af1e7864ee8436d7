"""scGPT with all its heads and losses together: expression, cell classes, adversarial batches, two views of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.scgpt.expression_scgpt import Decoded, DecoderContext, ScGPTExpressionOutput, ScGPTWithDecoders
from scfm_hf.nn.classifiers import DeepClassifier, reverse_gradient
from scfm_hf.nn.losses import contrastive_loss, elastic_cell_similarity, masked_mse

if TYPE_CHECKING:
    from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig


class ScGPTForPreTraining(ScGPTWithDecoders):
    """All heads of the original and their losses together: masked or generated expression, cell classes, batches."""

    _keys_to_ignore_on_load_unexpected: Any = None

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, depth = config.hidden_size, config.classifier_layers
        self.classifier = (
            DeepClassifier(size, config.num_labels, n_layers=depth) if config.pretraining_classifier else None
        )
        self.discriminator = (
            DeepClassifier(size, config.num_adversarial_labels, n_layers=depth, activation=nn.LeakyReLU())
            if config.num_adversarial_labels
            else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        batch_index: Tensor | None = None,
        class_index: Tensor | None = None,
        generated_ids: Tensor | None = None,
        generated_mask: Tensor | None = None,
        cell_prompt: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        draw_zeros: bool = False,
        generator: torch.Generator | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScGPTExpressionOutput:
        """Predict expression, classes and batches.

        Parameters
        ----------
        input_ids, values, attention_mask, batch_index, generated_ids, generated_mask, cell_prompt, inputs_embeds
            As of :class:`ScGPTModel`.
        token_type_ids
            Modality of each token, those to be generated behind the others, int64, (n_cells, n_tokens); for models with
            modalities.
        class_index
            Class of each cell, int64, (n_cells,).
        labels
            Expression to be predicted: of the genes in ``generated_ids`` where these are given, (n_cells, n_generated),
            else of all genes, (n_cells, n_tokens), compared where ``values`` is the mask value.
        draw_zeros, generator
            Set values to 0 by a draw from the probability of being expressed; the draws go through the batch in order.
        output_attentions, output_hidden_states
            As of :class:`ScGPTModel`.

        Returns
        -------
        Predictions; with ``labels`` or ``class_index`` also losses.
        """
        inputs = {
            "input_ids": input_ids,
            "values": values,
            "attention_mask": attention_mask,
            "batch_index": batch_index,
            "generated_ids": generated_ids,
            "generated_mask": generated_mask,
            "inputs_embeds": inputs_embeds,
        }
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        encoded = self.scgpt(**inputs, cell_prompt=cell_prompt, **asked, return_dict=True)
        genes = self._genes(input_ids, inputs_embeds)
        n_given = genes.shape[1]
        if generated_ids is not None:
            genes = torch.cat([genes, self.scgpt.gene_encoder(generated_ids)], 1)
        cells = self._embedding_for_heads(encoded.last_hidden_state, values, attention_mask, n_given)
        context = self._context(genes, batch_index, token_type_ids, values, attention_mask)
        decoded = self._decode(encoded.last_hidden_state, genes, cells, values, context)
        logits = None if self.classifier is None else self.classifier(cells)
        batch_logits = None if self.discriminator is None else self.discriminator(reverse_gradient(cells))

        losses: dict[str, Tensor] = {}
        if labels is not None and generated_ids is None:
            losses |= decoded.losses(labels, self._where_masked(values))
        elif labels is not None:
            prompt = cells.detach() if self.config.prompted_weight and cell_prompt is None else None
            losses |= self._generative_losses(decoded, labels, generated_mask, n_given, prompt, genes, context, inputs)
        if class_index is not None and logits is not None:
            losses["class"] = nn.functional.cross_entropy(logits, class_index)
        if labels is not None or class_index is not None:
            losses |= self._embedding_losses(cells, batch_logits, inputs)
        decoded = decoded.drawn(generator) if draw_zeros else decoded
        predicted = decoded.predicted_values
        return ScGPTExpressionOutput(
            loss=self._total(losses) if losses else None,
            **{**vars(decoded), "predicted_values": predicted[:, :n_given]},
            generated_values=None if generated_ids is None else predicted[:, n_given:],
            logits=logits,
            batch_logits=batch_logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )

    def _generative_losses(
        self,
        decoded: Decoded,
        labels: Tensor,
        generated_mask: Tensor | None,
        n_given: int,
        prompt: Tensor | None,
        genes: Tensor,
        context: DecoderContext | None,
        inputs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Losses of the generated genes; with a prompt also of a second pass whose first token is that embedding."""
        real = torch.ones_like(labels, dtype=torch.bool) if generated_mask is None else generated_mask.bool()
        losses = decoded.losses(labels, real, n_given)
        if prompt is not None:
            states = self.scgpt(**inputs, cell_prompt=prompt, return_dict=True).last_hidden_state
            again = self._decode(states, genes, prompt, inputs["values"], context).predicted_values
            losses["prompted_expression"] = masked_mse(again[:, n_given:], labels, real)
        return losses

    def _embedding_losses(
        self, cells: Tensor, batch_logits: Tensor | None, inputs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Losses on the cell embeddings: similarity, adversarial batches, two views."""
        config = self.config
        losses: dict[str, Tensor] = {}
        if config.ecs_weight and config.ecs_threshold:
            losses["cell_similarity"] = elastic_cell_similarity(cells, config.ecs_threshold)
        if batch_logits is not None and inputs["batch_index"] is not None:
            losses["batch"] = nn.functional.cross_entropy(batch_logits, inputs["batch_index"])
        if config.contrastive_weight:
            # The second view differs by dropout.
            values, mask = inputs["values"], inputs["attention_mask"]
            states = self.scgpt(**inputs, return_dict=True).last_hidden_state
            second = self._embedding_for_heads(states, values, mask, values.shape[1])
            losses["contrastive"] = contrastive_loss(cells, second, config.contrastive_temperature)
        return losses

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses, scalar."""
        weights = {
            "cell_similarity": self.config.ecs_weight,
            "batch": self.config.adversarial_weight,
            "contrastive": self.config.contrastive_weight,
            "prompted_expression": self.config.prompted_weight,
        }
        return torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()
