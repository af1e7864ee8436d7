"""scGPT-spatial's prediction of expression: from each gene's state, from the cell, and from the cells around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scgpt_spatial.experts_scgpt_spatial import ExpertDecoder
from scfm_hf.models.scgpt_spatial.modeling_scgpt_spatial import ScGPTSpatialModel, ScGPTSpatialPreTrainedModel
from scfm_hf.models.scgpt_spatial.neighbours_scgpt_spatial import neighbour_means
from scfm_hf.nn.losses import expression_losses
from scfm_hf.nn.value_decoders import CellConditionedDecoder, ExpressionDecoder
from scfm_hf.nn.value_encoders import NormedEmbedding

if TYPE_CHECKING:
    from scfm_hf.models.scgpt_spatial.configuration_scgpt_spatial import ScGPTSpatialConfig

#: Values and probabilities of being expressed, (n_cells, n_tokens) each, or None.
Prediction = tuple[Tensor | None, Tensor | None]
NOTHING: Prediction = (None, None)


@dataclass
class ScGPTSpatialExpressionOutput(CellExpressionOutput):
    """Output of the expression heads.

    Parameters
    ----------
    loss
        Sum of ``losses``, weighted as the configuration says, scalar; only with ``labels`` or ``class_index``.
    cell_predicted_values, cell_expressed_probability
        As ``predicted_values`` and ``expressed_probability``, predicted from the cell embedding.
    neighbour_predicted_values, neighbour_expressed_probability
        The same from the embeddings of the spatial neighbours; only with ``coordinates``. NaN for a cell without one.
    generated_values
        Values of the genes that were to be generated, (n_cells, n_generated).
    logits, batch_logits
        Scores of the cell classes and of the adversarial batch classifier, (n_cells, n_labels).
    losses
        Each loss by name, before its weight.
    """

    cell_predicted_values: Tensor | None = None
    cell_expressed_probability: Tensor | None = None
    neighbour_predicted_values: Tensor | None = None
    neighbour_expressed_probability: Tensor | None = None
    generated_values: Tensor | None = None
    logits: Tensor | None = None
    batch_logits: Tensor | None = None
    losses: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Predictions:
    """What the decoders say of every gene.

    Parameters
    ----------
    of_genes, of_cells, of_neighbours
        From a gene's own state, from the cell, and from the cells around it.
    has_neighbour
        Cells that the last one is about, bool, (n_cells,).
    """

    of_genes: Prediction
    of_cells: Prediction
    of_neighbours: Prediction
    has_neighbour: Tensor | None

    def losses(self, wanted: Tensor, mask: Tensor, n_before: int = 0) -> dict[str, Tensor]:
        """Masked losses of all predictions that there are, of the tokens after the first ``n_before``."""

        def behind(pair: Prediction) -> tuple[Tensor | None, ...]:
            return tuple(None if part is None else part[:, n_before:] for part in pair)

        found = expression_losses(
            {"expression": behind(self.of_genes), "cell_expression": behind(self.of_cells)}, wanted, mask
        )
        if self.has_neighbour is not None:
            near = {"neighbour_expression": behind(self.of_neighbours)}
            found |= expression_losses(near, wanted, mask.bool() & self.has_neighbour[:, None])
        return found

    def fields(self) -> dict[str, Tensor | None]:
        """The same as fields of an output."""
        near = self.of_neighbours
        if self.has_neighbour is not None:
            alone = ~self.has_neighbour[:, None]
            values, probability = (None if part is None else part.masked_fill(alone, torch.nan) for part in near)
            near = values, probability
        names = ("{}predicted_values", "{}expressed_probability")
        parts = {"": self.of_genes, "cell_": self.of_cells, "neighbour_": near}
        return {
            name.format(prefix): part for prefix, pair in parts.items() for name, part in zip(names, pair, strict=True)
        }


class ScGPTSpatialWithDecoders(ScGPTSpatialPreTrainedModel):
    """The encoder with the decoders that the configuration asks for."""

    def __init__(self, config: ScGPTSpatialConfig) -> None:
        super().__init__(config)
        size, batches = config.hidden_size, config.num_batch_labels
        self.scgpt_spatial = ScGPTSpatialModel(config)
        self.batch_encoder = NormedEmbedding(batches, size, layer_norm_eps=config.layer_norm_eps) if batches else None
        n_told, with_probability = 2 * size if batches else size, config.explicit_zero_probability
        self.decoder: nn.Module = (
            ExpertDecoder(n_told, size, n_experts=config.num_experts, n_picked=config.num_experts_per_token)
            if config.decoder_style == "experts"
            else ExpressionDecoder(n_told, size, with_probability=with_probability)
        )

        def conditioned(wanted: bool) -> CellConditionedDecoder | None:
            if not wanted:
                return None
            return CellConditionedDecoder(size, n_told, style="inner product", with_probability=with_probability)

        self.cell_decoder = conditioned(config.cell_decoder)
        self.neighbour_decoder = conditioned(config.neighbour_decoder)

    @torch.no_grad()
    def predict_from_neighbours(
        self,
        cell_embedding: Tensor,
        coordinates: Tensor,
        input_ids: Tensor,
        *,
        batch_index: Tensor | None = None,
        slide_index: Tensor | None = None,
        n_neighbours: int | None = None,
    ) -> Tensor:
        """Expression of any genes, measured or not, in each spot of a slide, from the spots around it.

        Parameters
        ----------
        cell_embedding
            Of all spots, not scaled to length 1 (``normalize_embedding=False``), (n_cells, hidden_size).
        coordinates
            (n_cells, 2).
        input_ids
            The genes wanted, int64, (n_genes,).
        batch_index, slide_index
            As in ``forward``.
        n_neighbours
            ``config.num_neighbours`` if not given.

        Returns
        -------
        (n_cells, n_genes), on the scale of the bins, not counts; NaN for a spot without a neighbour.

        Raises
        ------
        ValueError
            If the model has no such decoder.
        """
        if self.neighbour_decoder is None:
            raise ValueError("This model has no decoder of neighbours: its configuration has neighbour_decoder=False.")
        wanted = self.config.num_neighbours if n_neighbours is None else n_neighbours
        means, has_any = neighbour_means(cell_embedding, coordinates, wanted, slide_index=slide_index)
        batch = self._batch(batch_index)
        means = means if batch is None else torch.cat([means, batch], 1)
        query = self.neighbour_decoder.gene_query(self.scgpt_spatial.gene_encoder(input_ids)).sigmoid()
        predicted = means @ self.neighbour_decoder.weight(query).T
        return predicted.masked_fill(~has_any[:, None], torch.nan)

    def _genes(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Gene embeddings without values, (n_cells, n_tokens, hidden_size)."""
        return self.scgpt_spatial.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds

    def _where_masked(self, values: Tensor | None) -> Tensor:
        """Bool, (n_cells, n_tokens): where expression was hidden from the model."""
        assert values is not None  # the encoder has refused to run without
        return values == self.config.mask_value

    def _batch(self, batch_index: Tensor | None) -> Tensor | None:
        """Vector of each cell's batch, (n_cells, hidden_size); None if the model is not told of it."""
        if self.batch_encoder is None:
            return None
        if batch_index is None:
            names = f" ({', '.join(self.config.batch_names)})" if self.config.batch_names else ""
            raise ValueError(
                f"The decoders of this model need batch_index=, the batch or protocol of each cell{names}."
            )
        return self.batch_encoder(batch_index)

    def _decode(
        self,
        states: Tensor,
        genes: Tensor,
        cells: Tensor,
        batch: Tensor | None,
        coordinates: Tensor | None,
        slide_index: Tensor | None,
    ) -> Predictions:
        """Values by all decoders; ``cells`` are the embeddings as heads see them."""

        def told(vectors: Tensor) -> Tensor:
            return vectors if batch is None else torch.cat([vectors, batch], 1)

        if batch is not None:
            states = torch.cat([states, batch[:, None].expand(-1, states.shape[1], -1)], 2)
        near, has_neighbour = NOTHING, None
        if coordinates is not None and self.neighbour_decoder is not None:
            means, has_neighbour = neighbour_means(
                cells, coordinates, self.config.num_neighbours, slide_index=slide_index
            )
            near = self.neighbour_decoder(told(means), genes)
        from_cell = NOTHING if self.cell_decoder is None else self.cell_decoder(told(cells), genes)
        return Predictions(self.decoder(states), from_cell, near, has_neighbour)

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses, scalar."""
        config = self.config
        weights = {
            "cell_similarity": config.ecs_weight,
            "batch": config.adversarial_weight,
            "neighbour_expression": config.neighbour_weight,
            "neighbour_expression_zero": config.neighbour_weight,
        }
        return torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()


class ScGPTSpatialForExpressionPrediction(ScGPTSpatialWithDecoders):
    """Predicts masked expression: from each gene's state, from the cell embedding, and from spatial neighbours."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^(classifier|discriminator)\."]  # noqa: RUF012

    def __init__(self, config: ScGPTSpatialConfig) -> None:
        super().__init__(config)
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
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScGPTSpatialExpressionOutput:
        """Predict expression.

        Parameters
        ----------
        input_ids, values, attention_mask, inputs_embeds
            As of :class:`ScGPTSpatialModel`.
        coordinates
            Place of each cell, (n_cells, 2): values are then predicted from the nearest cells of the batch too, which
            should be a patch of a slide (see ``spatial_patches``). None: each cell for itself.
        slide_index
            Slide of each cell, int64, (n_cells,): neighbours are of the same slide.
        batch_index
            Batch or protocol of each cell, int64, (n_cells,); for models whose decoders are told.
        labels
            Expression values, (n_cells, n_tokens), compared where ``values`` is the mask value.
        output_attentions, output_hidden_states
            As of :class:`ScGPTSpatialModel`.
        """
        encoded = self.scgpt_spatial(
            input_ids,
            values,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        genes, batch = self._genes(input_ids, inputs_embeds), self._batch(batch_index)
        cells = self.scgpt_spatial.pool(encoded.last_hidden_state, values, attention_mask)
        predicted = self._decode(encoded.last_hidden_state, genes, cells, batch, coordinates, slide_index)
        losses = {} if labels is None else predicted.losses(labels, self._where_masked(values))
        return ScGPTSpatialExpressionOutput(
            loss=self._total(losses) if losses else None,
            **predicted.fields(),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses or None,
        )
