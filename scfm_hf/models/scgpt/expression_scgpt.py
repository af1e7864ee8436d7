"""scGPT's prediction of expression values, from each gene's state and from the cell embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scgpt.modeling_scgpt import ScGPTModel, ScGPTPreTrainedModel
from scfm_hf.nn.losses import expression_losses
from scfm_hf.nn.value_decoders import CellConditionedDecoder, ExpressionDecoder, draw_expressed
from scfm_hf.nn.value_encoders import NormedEmbedding

if TYPE_CHECKING:
    from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig


@dataclass
class ScGPTExpressionOutput(CellExpressionOutput):
    """Output of the expression heads.

    Parameters
    ----------
    loss
        Sum of ``losses``, weighted as the configuration says, scalar; only with ``labels`` or ``class_index``.
    cell_predicted_values, cell_expressed_probability
        As ``predicted_values`` and ``expressed_probability``, predicted from the cell embedding.
    generated_values
        Values of the genes that were to be generated, (n_cells, n_generated).
    logits, batch_logits
        Scores of the cell classes and of the adversarial batch classifier, (n_cells, n_labels).
    losses
        Each loss by name, before its weight.
    """

    cell_predicted_values: Tensor | None = None
    cell_expressed_probability: Tensor | None = None
    generated_values: Tensor | None = None
    logits: Tensor | None = None
    batch_logits: Tensor | None = None
    losses: dict[str, Tensor] | None = None


class AffineExpressionDecoder(nn.Module):
    """Coefficient x input value + bias, both decoded from a gene's state: a perturbed value from an unperturbed one."""

    def __init__(self, config: ScGPTConfig, n_inputs: int) -> None:
        super().__init__()
        self.adaptive_bias = config.decoder_adaptive_bias
        self.activation = ACT2FN[config.decoder_activation] if config.decoder_activation else nn.Identity()
        with_probability = config.explicit_zero_probability
        self.coefficient = ExpressionDecoder(n_inputs, config.hidden_size, with_probability=with_probability)
        self.bias = ExpressionDecoder(n_inputs, config.hidden_size, with_probability=False)

    def forward(self, states: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """States, (n_cells, n_tokens, n_inputs), and input values -> values and probabilities, (n_cells, n_tokens)."""
        coefficient, probability = self.coefficient(states)
        coefficient, bias = self.activation(coefficient), self.activation(self.bias(states)[0])
        if self.adaptive_bias:
            n_expressed = (values != 0).sum(1, keepdim=True).clamp(min=1)
            bias = bias * values.sum(1, keepdim=True) / n_expressed
        return coefficient * values + bias, probability


@dataclass(frozen=True)
class DecoderContext:
    """What the decoders are told of batch and modality.

    Parameters
    ----------
    of_tokens
        (n_cells, n_tokens, hidden_size).
    of_cells
        The same for the whole cell, (n_cells, hidden_size).
    """

    of_tokens: Tensor
    of_cells: Tensor


@dataclass(frozen=True)
class Decoded:
    """Values and probabilities of being expressed by both decoders, (n_cells, n_tokens) each."""

    predicted_values: Tensor
    expressed_probability: Tensor | None
    cell_predicted_values: Tensor | None
    cell_expressed_probability: Tensor | None

    def losses(self, wanted: Tensor, mask: Tensor, n_before: int = 0) -> dict[str, Tensor]:
        """Masked losses of all predictions that there are, of the tokens after the first ``n_before``."""
        predictions = {
            "expression": (self.predicted_values, self.expressed_probability),
            "cell_expression": (self.cell_predicted_values, self.cell_expressed_probability),
        }
        behind = {
            name: tuple(None if part is None else part[:, n_before:] for part in parts)
            for name, parts in predictions.items()
        }
        return expression_losses(behind, wanted, mask)

    def drawn(self, generator: torch.Generator | None) -> Decoded:
        """The same with values set to 0 where a draw says that the gene is not expressed."""
        values, probability = self.cell_predicted_values, self.cell_expressed_probability
        return Decoded(
            draw_expressed(self.predicted_values, self.expressed_probability, generator),
            self.expressed_probability,
            None if values is None else draw_expressed(values, probability, generator),
            probability,
        )


class ScGPTWithDecoders(ScGPTPreTrainedModel):
    """The encoder with the decoders that the configuration asks for."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.layer_norm_eps
        self.scgpt = ScGPTModel(config)
        batches, modalities = config.num_batch_labels, config.num_modalities
        self.batch_encoder = NormedEmbedding(batches, size, layer_norm_eps=eps) if batches else None
        self.modality_encoder = NormedEmbedding(modalities, size, layer_norm_eps=eps) if modalities else None
        n_told = 2 * size if batches or modalities else size
        with_probability = config.explicit_zero_probability
        self.decoder: nn.Module = (
            AffineExpressionDecoder(config, n_told)
            if config.decoder_style == "affine"
            else ExpressionDecoder(n_told, size, with_probability=with_probability)
        )
        # The gene's query knows the modality, but not the batch alone.
        self.mvc_decoder = (
            CellConditionedDecoder(
                2 * size if modalities else size, n_told, style=config.mvc_style, with_probability=with_probability
            )
            if config.mvc_style is not None
            else None
        )

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
            Not scaled to length 1 (``normalize_embedding=False``), (n_cells, hidden_size).
        input_ids
            Genes, ``<cls>`` first, int64, (n_cells, n_tokens).
        values, attention_mask, batch_index, token_type_ids
            As in ``forward``; values may be missing.

        Returns
        -------
        (n_cells, n_tokens).
        """
        encoded = self.scgpt(
            input_ids, values, attention_mask, batch_index, cell_prompt=cell_embedding, return_dict=True
        )
        genes = self.scgpt.gene_encoder(input_ids)
        context = self._context(genes, batch_index, token_type_ids, values, attention_mask)
        return self._decode(encoded.last_hidden_state, genes, cell_embedding, values, context).predicted_values

    def _genes(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Gene embeddings without values, (n_cells, n_tokens, hidden_size)."""
        return self.scgpt.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds

    def _embedding_for_heads(
        self, states: Tensor, values: Tensor | None, attention_mask: Tensor | None, n_given: int | None = None
    ) -> Tensor:
        """The cell embedding as heads see it: of the last layer, not scaled to length 1."""
        return self.scgpt.pool(states[:, :n_given], values, attention_mask)

    def _where_masked(self, values: Tensor | None) -> Tensor:
        """Bool, (n_cells, n_tokens): where expression was hidden from the model."""
        if values is None:
            raise ValueError("The loss is that of masked values: pass values= as well.")
        return values == self.config.mask_value

    def _context(
        self,
        genes: Tensor,
        batch_index: Tensor | None,
        token_type_ids: Tensor | None,
        values: Tensor | None,
        attention_mask: Tensor | None,
    ) -> DecoderContext | None:
        """Batch and modality for the decoders; None if the model is not told of them."""
        n_tokens = genes.shape[1]
        if self.batch_encoder is not None and self.modality_encoder is None and batch_index is None:
            raise ValueError("The decoders of this model need batch_index=, the batch of each cell.")
        batch = None
        if self.batch_encoder is not None and batch_index is not None:
            batch = self.batch_encoder(batch_index)
        if self.modality_encoder is None:
            return None if batch is None else DecoderContext(batch[:, None].expand(-1, n_tokens, -1), batch)
        if token_type_ids is None:
            raise ValueError("The decoders of this model need token_type_ids=, the modality of each token.")
        told = self.modality_encoder(token_type_ids)
        told = told if batch is None else told + batch[:, None]
        n_given = n_tokens if values is None else values.shape[1]
        return DecoderContext(told, self.scgpt.pool(told[:, :n_given], values, attention_mask))

    def _decode(
        self, states: Tensor, genes: Tensor, cells: Tensor, values: Tensor | None, context: DecoderContext | None
    ) -> Decoded:
        """Values by both decoders; ``cells`` are the embeddings as heads see them."""
        if context is not None:
            states = torch.cat([states, context.of_tokens], 2)
            cells = torch.cat([cells, context.of_cells], 1)
            if self.modality_encoder is not None:
                genes = torch.cat([genes, context.of_tokens], 2)
        decoded = self.decoder(states, values) if self.config.decoder_style == "affine" else self.decoder(states)
        from_cell = (None, None) if self.mvc_decoder is None else self.mvc_decoder(cells, genes)
        return Decoded(*decoded, *from_cell)


class ScGPTForExpressionPrediction(ScGPTWithDecoders):
    """Predicts masked expression values, from each gene's state and from the cell embedding."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^(classifier|discriminator)\."]  # noqa: RUF012

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
        """Predict expression.

        Parameters
        ----------
        input_ids, values, attention_mask, batch_index, inputs_embeds
            As of :class:`ScGPTModel`.
        token_type_ids
            Modality of each token, int64, (n_cells, n_tokens); for models with modalities.
        labels
            Expression values, (n_cells, n_tokens), compared where ``values`` is the mask value.
        draw_zeros, generator
            Set values to 0 by a draw from the probability of being expressed; the draws go through the batch in order.
        output_attentions, output_hidden_states
            As of :class:`ScGPTModel`.
        """
        encoded = self.scgpt(
            input_ids,
            values,
            attention_mask,
            batch_index,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        genes = self._genes(input_ids, inputs_embeds)
        cells = self._embedding_for_heads(encoded.last_hidden_state, values, attention_mask)
        context = self._context(genes, batch_index, token_type_ids, values, attention_mask)
        decoded = self._decode(encoded.last_hidden_state, genes, cells, values, context)
        losses = {} if labels is None else decoded.losses(labels, self._where_masked(values))
        decoded = decoded.drawn(generator) if draw_zeros else decoded
        return ScGPTExpressionOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            **vars(decoded),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )
