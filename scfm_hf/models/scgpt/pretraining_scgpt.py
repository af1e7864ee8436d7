"""scGPT with all its heads: expression, expression from the cell embedding, cell classes, adversarial batches, and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellModelOutput
from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.models.scgpt.heads_scgpt import AffineExpressionDecoder, CellConditionedDecoder, ExpressionDecoder
from scfm_hf.models.scgpt.modeling_scgpt import ScGPTModel, ScGPTPreTrainedModel
from scfm_hf.nn.classifiers import DeepClassifier, reverse_gradient
from scfm_hf.nn.losses import contrastive_loss, elastic_cell_similarity, masked_bernoulli, masked_mse
from scfm_hf.nn.value_encoders import NormedEmbedding


@dataclass
class ScGPTExpressionOutput(ModelOutput):
    """Output of the expression heads.

    Parameters
    ----------
    loss
        Sum of ``losses``, weighted as the configuration says, scalar; only with ``labels`` or ``class_index``.
    predicted_values, expressed_probability
        Value of each gene and probability that it is expressed, (n_cells, n_tokens).
    cell_predicted_values, cell_expressed_probability
        The same, predicted from the cell embedding.
    generated_values
        Values of the genes that were to be generated, (n_cells, n_generated).
    logits, batch_logits
        Scores of the cell classes and of the adversarial batch classifier, (n_cells, n_labels).
    losses
        Each loss by name, before its weight.
    """

    loss: torch.FloatTensor | None = None
    predicted_values: torch.FloatTensor | None = None
    expressed_probability: torch.FloatTensor | None = None
    cell_predicted_values: torch.FloatTensor | None = None
    cell_expressed_probability: torch.FloatTensor | None = None
    generated_values: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    batch_logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    losses: dict[str, torch.FloatTensor] | None = None


class ScGPTWithHeads(ScGPTPreTrainedModel):
    """The encoder with those heads that the configuration asks for."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.layer_norm_eps
        self.scgpt = ScGPTModel(config)
        batches, modalities = config.num_batch_labels, config.num_modalities
        self.batch_encoder = NormedEmbedding(batches, size, layer_norm_eps=eps) if batches else None
        self.modality_encoder = NormedEmbedding(modalities, size, layer_norm_eps=eps) if modalities else None
        n_context = size if batches or modalities else 0
        decoder = AffineExpressionDecoder if config.decoder_style == "affine" else ExpressionDecoder
        with_probability = config.explicit_zero_probability
        self.decoder = decoder(config, size + n_context, with_probability=with_probability)
        # The gene's query knows the modality, but not the batch alone.
        n_gene = size + (size if modalities else 0)
        self.mvc_decoder = (
            CellConditionedDecoder(config, n_gene, size + n_context, with_probability=with_probability)
            if config.mvc_style
            else None
        )

    def _context(self, batch_index: Tensor | None, token_type_ids: Tensor | None) -> Tensor | None:
        """What the decoders are told of batch and modality, (n_cells, 1 or n_tokens, hidden_size)."""
        if self.modality_encoder is None:
            if self.batch_encoder is None:
                return None
            if batch_index is None:
                raise ValueError("The decoders of this model need batch_index=, the batch of each cell.")
            return self.batch_encoder(batch_index)[:, None]
        if token_type_ids is None:
            raise ValueError("The decoders of this model need token_type_ids=, the modality of each token.")
        context = self.modality_encoder(token_type_ids)
        if self.batch_encoder is not None and batch_index is not None:
            context = context + self.batch_encoder(batch_index)[:, None]
        return context

    def _decode(
        self, states: Tensor, genes: Tensor, cells: Tensor, values: Tensor | None, context: Tensor | None
    ) -> dict[str, Tensor | None]:
        """Values by both decoders; ``cells`` are the plain cell embeddings."""
        if context is not None:
            n_tokens = states.shape[1]
            spread = context.expand(-1, n_tokens, -1)
            cells = torch.cat([cells, context[:, 0]], 1)
            states = torch.cat([states, spread], 2)
            if self.modality_encoder is not None:
                genes = torch.cat([genes, spread], 2)
        decoded = self.decoder(states, values) if self.config.decoder_style == "affine" else self.decoder(states)
        from_cell = (None, None) if self.mvc_decoder is None else self.mvc_decoder(cells, genes)
        names = ("predicted_values", "expressed_probability", "cell_predicted_values", "cell_expressed_probability")
        return dict(zip(names, (*decoded, *from_cell), strict=True))

    def _plain_embedding(self, encoded: CellModelOutput, values: Tensor | None, attention_mask: Tensor | None, n_given: int) -> Tensor:
        """The cell embedding as heads see it: of the last layer, not scaled to length 1."""
        return self.scgpt.pool(encoded.last_hidden_state[:, :n_given], values, attention_mask)

    def _expression_losses(
        self, decoded: dict[str, Tensor | None], wanted: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Masked losses of all predictions that there are."""
        losses: dict[str, Tensor] = {}
        for prefix, name in (("", "expression"), ("cell_", "cell_expression")):
            predicted, probability = decoded[f"{prefix}predicted_values"], decoded[f"{prefix}expressed_probability"]
            if predicted is not None:
                losses[name] = masked_mse(predicted, wanted, mask)
            if probability is not None:
                losses[f"{name}_zero"] = masked_bernoulli(probability, wanted, mask)
        return losses

    @torch.no_grad()
    def generate_values(
        self,
        cell_embedding: Tensor,
        input_ids: Tensor,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch_index: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Expression of genes in a cell of which only the embedding is known.

        Parameters
        ----------
        cell_embedding
            Not scaled to length 1, (n_cells, hidden_size).
        input_ids
            Genes, ``<cls>`` first, int64, (n_cells, n_tokens).
        values, attention_mask, batch_index, token_type_ids
            As in ``forward``; values may be missing.

        Returns
        -------
        (n_cells, n_tokens).
        """
        encoded = self.scgpt(input_ids, values, attention_mask, batch_index, cell_prompt=cell_embedding)
        genes = self.scgpt.gene_encoder(input_ids)
        context = self._context(batch_index, token_type_ids)
        decoded = self._decode(encoded.last_hidden_state, genes, cell_embedding, values, context)
        return decoded["predicted_values"]


def draw_expressed(values: Tensor | None, probability: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
    """Values, set to 0 where a draw says that the gene is not expressed."""
    if values is None or probability is None:
        return values
    return values * torch.bernoulli(probability, generator=generator)


class ScGPTForPreTraining(ScGPTWithHeads):
    """All heads of the original and their losses together: masked or generated expression, cell classes, batches."""

    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, depth = config.hidden_size, config.classifier_layers
        self.classifier = DeepClassifier(size, config.num_labels, n_layers=depth) if config.pretraining_classifier else None
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
            Modality of each token, int64, (n_cells, n_tokens).
        class_index
            Class of each cell, int64, (n_cells,).
        labels
            Expression to be predicted: of the genes in ``generated_ids`` where these are given, (n_cells, n_generated), else of all genes,
            (n_cells, n_tokens); compared where ``values`` is the mask value.
        draw_zeros, generator
            Set values to 0 by a draw from the probability of being expressed.

        Returns
        -------
        Predictions; with ``labels`` or ``class_index`` also losses.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        prompts = {"generated_ids": generated_ids, "generated_mask": generated_mask, "cell_prompt": cell_prompt}
        encoded = self.scgpt(input_ids, values, attention_mask, batch_index, inputs_embeds=inputs_embeds, **prompts, **options)
        genes = self.scgpt.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds
        n_given = genes.shape[1]
        if generated_ids is not None:
            genes = torch.cat([genes, self.scgpt.gene_encoder(generated_ids)], 1)
        cells = self._plain_embedding(encoded, values, attention_mask, n_given)
        context = self._context(batch_index, token_type_ids)
        decoded = self._decode(encoded.last_hidden_state, genes, cells, values, context)
        logits = None if self.classifier is None else self.classifier(cells)
        batch_logits = None if self.discriminator is None else self.discriminator(reverse_gradient(cells))

        losses: dict[str, Tensor] = {}
        if labels is not None and generated_ids is not None:
            real = torch.ones_like(labels, dtype=torch.bool) if generated_mask is None else generated_mask.bool()
            of_generated = {name: value if value is None else value[:, n_given:] for name, value in decoded.items()}
            losses |= self._expression_losses(of_generated, labels, real)
            if self.config.prompted_weight and cell_prompt is None:
                losses["prompted_expression"] = self._prompted_loss(
                    cells.detach(), labels, real, (input_ids, values, attention_mask, batch_index, None, generated_ids)
                )
        elif labels is not None:
            losses |= self._expression_losses(decoded, labels, values == self.config.mask_value)
        if class_index is not None and logits is not None:
            losses["class"] = nn.functional.cross_entropy(logits, class_index)
        training_losses = labels is not None or class_index is not None
        if training_losses:
            losses |= self._embedding_losses(cells, batch_logits, batch_index, (input_ids, values, attention_mask))
        loss = self._total(losses) if losses else None
        if draw_zeros:
            for prefix in ("", "cell_"):
                name, probability = f"{prefix}predicted_values", decoded[f"{prefix}expressed_probability"]
                decoded[name] = draw_expressed(decoded[name], probability, generator)
        generated_values = None
        if generated_ids is not None:
            generated_values = decoded["predicted_values"][:, n_given:]
            decoded["predicted_values"] = decoded["predicted_values"][:, :n_given]
        return ScGPTExpressionOutput(
            loss=loss,
            **decoded,
            generated_values=generated_values,
            logits=logits,
            batch_logits=batch_logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )

    def _embedding_losses(
        self, cells: Tensor, batch_logits: Tensor | None, batch_index: Tensor | None, inputs: tuple[Any, ...]
    ) -> dict[str, Tensor]:
        """Losses on the cell embeddings: similarity, adversarial batches, two views."""
        config, losses = self.config, {}
        if config.ecs_weight and config.ecs_threshold:
            losses["cell_similarity"] = elastic_cell_similarity(cells, config.ecs_threshold)
        if batch_logits is not None and batch_index is not None:
            losses["batch"] = nn.functional.cross_entropy(batch_logits, batch_index)
        if config.contrastive_weight:
            # The second view differs by dropout.
            again = self.scgpt(*inputs, batch_index)
            second = self._plain_embedding(again, inputs[1], inputs[2], again.last_hidden_state.shape[1])
            losses["contrastive"] = contrastive_loss(cells, second, config.contrastive_temperature)
        return losses

    def _prompted_loss(self, cells: Tensor, wanted: Tensor, real: Tensor, inputs: tuple[Any, ...]) -> Tensor:
        """Loss of the generated values in a second pass, whose first token is the cell embedding of the first pass."""
        again = self.scgpt(*inputs, cell_prompt=cells)
        states = again.last_hidden_state[:, -wanted.shape[1] :]
        if self.config.num_batch_labels or self.config.num_modalities or self.config.decoder_style == "affine":
            raise ValueError("The prompted pass is one of a model whose decoder takes the states alone.")
        return masked_mse(self.decoder(states)[0], wanted, real)

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses, scalar."""
        weights = {
            "cell_similarity": self.config.ecs_weight,
            "batch": self.config.adversarial_weight,
            "contrastive": self.config.contrastive_weight,
            "prompted_expression": self.config.prompted_weight,
        }
        return torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()


class ScGPTForExpressionPrediction(ScGPTWithHeads):
    """Predicts masked expression values, from each gene's state and from the cell embedding."""

    _keys_to_ignore_on_load_unexpected = [r"^(classifier|discriminator)\."]  # noqa: RUF012

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        batch_index: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        draw_zeros: bool = False,
        generator: torch.Generator | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScGPTExpressionOutput:
        """Predict expression; ``labels`` are values, (n_cells, n_tokens), compared where ``values`` is the mask value."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        encoded = self.scgpt(input_ids, values, attention_mask, batch_index, inputs_embeds=inputs_embeds, **options)
        genes = self.scgpt.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds
        cells = self._plain_embedding(encoded, values, attention_mask, genes.shape[1])
        decoded = self._decode(encoded.last_hidden_state, genes, cells, values, self._context(batch_index, token_type_ids))
        losses = {} if labels is None else self._expression_losses(decoded, labels, values == self.config.mask_value)
        if draw_zeros:
            for prefix in ("", "cell_"):
                name, probability = f"{prefix}predicted_values", decoded[f"{prefix}expressed_probability"]
                decoded[name] = draw_expressed(decoded[name], probability, generator)
        return ScGPTExpressionOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            **decoded,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )
