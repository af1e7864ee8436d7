"""CellPLM's heads that predict expression: pretraining, imputation, denoising and perturbation.

All predict the genes of the input, or those that ``target_ids`` names, from a cell's latent vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.cellplm.decoders_cellplm import PerceptronDecoder, decoder_of
from scfm_hf.models.cellplm.masking_cellplm import draw_input_mask
from scfm_hf.models.cellplm.modeling_cellplm import CellPLMModel, CellPLMPreTrainedModel
from scfm_hf.models.outputs import CellExpressionOutput

if TYPE_CHECKING:
    from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig


@dataclass
class CellPLMExpressionOutput(CellExpressionOutput):
    """Output of CellPLM's decoders.

    Parameters
    ----------
    predicted_values
        Expected counts, scaled so that those of a cell's own genes have the total of its input, (n_cells, n_genes); of
        the denoising head, log(1 + counts per 10,000).
    means, dispersions
        Of the negative binomial, before scaling, (n_cells, n_genes), dispersions on request; ``means`` of the other
        decoders: what they give.
    losses
        Parts of ``loss``: ``expression``, ``hidden_expression`` and ``latent``.
    """

    means: Tensor | None = None
    dispersions: Tensor | None = None
    losses: dict[str, Tensor] | None = None


class _Decoded(NamedTuple):
    """Decoder output at the genes in question, (n_cells, n_genes) each."""

    means: Tensor
    dispersions: Tensor | None
    counted: Tensor


class CellPLMForExpressionPrediction(CellPLMPreTrainedModel):
    """Predicts expression from the cell's latent vector: imputation, denoising; the loss is ``config.objective``."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__(config)
        self.cellplm = CellPLMModel(config)
        self.decoder = decoder_of(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cell_sets: Tensor | None = None,
        batch_index: Tensor | None = None,
        dataset_index: Tensor | None = None,
        platform_index: Tensor | None = None,
        coordinates: Tensor | None = None,
        input_mask: Tensor | None = None,
        latent_noise: Tensor | None = None,
        cluster_draws: Tensor | None = None,
        target_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_dispersions: bool = False,
    ) -> CellPLMExpressionOutput:
        """Predict expression.

        Parameters
        ----------
        input_ids, values, attention_mask, cell_sets, coordinates, latent_noise, cluster_draws, inputs_embeds
            See :meth:`CellPLMModel.forward`.
        batch_index, dataset_index, platform_index
            Covariates of the decoder, int64, (n_cells,) each; None where they are not known.
        input_mask
            1 where a gene is hidden from the input, (n_cells, n_genes). None: drawn in training, by the configuration.
        target_ids
            Genes to predict, int64, (n_cells, n_targets); None: those of the input. All genes where neither is given.
        labels
            True counts of these genes, same shape; -100 where a gene was not measured.
        output_hidden_states, output_dispersions
            Return the states of all layers, and the dispersions, which are the same for every cell.
        """
        if input_mask is None and self.training and values is not None:
            input_mask = draw_input_mask(values, self.config)
        encoded = self.cellplm(
            input_ids,
            values,
            attention_mask,
            cell_sets,
            batch_index,
            coordinates,
            input_mask,
            latent_noise,
            cluster_draws,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_latent_loss=labels is not None,
            return_dict=True,
        )
        covariates = (batch_index, dataset_index, platform_index)
        genes, dispersions = self.decoder(encoded.latent, covariates)
        own = _at(genes, dispersions, input_ids, attention_mask)
        asked = own if target_ids is None else _at(genes, dispersions, target_ids, None)
        losses: dict[str, Tensor] | None = None
        if labels is not None:
            hidden = input_mask if target_ids is None and self.training else None
            losses = {**self.expression_losses(asked, labels, hidden), "latent": encoded.latent_loss}
        return CellPLMExpressionOutput(
            loss=None if losses is None else sum(losses.values(), encoded.latent.new_zeros(())),
            predicted_values=self.scale(asked.means, own, values),
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            means=asked.means,
            dispersions=asked.dispersions if output_dispersions else None,
            losses=losses,
        )

    def scale(self, means: Tensor, own: _Decoded, values: Tensor | None) -> Tensor:
        """Predictions in the units of the input, (n_cells, n_genes)."""
        if self.config.objective == "denoising" or values is None:
            return means
        # Without ids the genes of the input are not known: its total is that of all its values, padding being 0.
        total = _total(values, own.counted if own.counted.shape == values.shape else torch.ones_like(values))
        if self.config.objective == "recon":
            return means * total
        return means * (total / _total(own.means, own.counted).clamp(min=1e-12))

    def expression_losses(self, predicted: _Decoded, labels: Tensor, input_mask: Tensor | None) -> dict[str, Tensor]:
        """The loss on expression, and in training that on the hidden entries."""
        config = self.config
        counted = predicted.counted & (labels != -100)
        wanted = labels.to(predicted.means.dtype).masked_fill(~counted, 0)
        if config.objective == "recon":
            scaled = predicted.means * _total(wanted, counted)
            return {"expression": _mean_square(scaled - wanted, counted)}
        if config.objective == "denoising":
            if not (self.training or config.evaluate_denoising):
                return {"expression": wanted.new_zeros(())}
            wanted = (1e4 * wanted / _total(wanted, counted).clamp(min=1e-12)).log1p()
            error = predicted.means - wanted
            losses = {"expression": _mean_square(error, counted)}
            if input_mask is not None:
                losses["hidden_expression"] = _mean_square(error * input_mask, counted)
            return losses
        if predicted.dispersions is None:
            raise ValueError(
                f"objective={config.objective!r} needs decoder_type='nbmlp', which has dispersions; this model has "
                f"{config.decoder_type!r}."
            )
        if config.objective == "imputation" or input_mask is None:
            return {"expression": _negative_binomial(wanted, predicted.means, predicted.dispersions, counted, counted)}
        hidden = counted & (input_mask != 0)
        # Cells of which nothing was hidden are left out before any division: their hidden total is 0.
        chosen = hidden.any(1)
        parts = (wanted[chosen], predicted.means[chosen], predicted.dispersions[chosen], counted[chosen])
        losses = {"expression": _negative_binomial(*parts, counted[chosen])}
        if config.denoise:
            losses["hidden_expression"] = _negative_binomial(*parts, hidden[chosen])
        return losses


class CellPLMForPreTraining(CellPLMForExpressionPrediction):
    """The model that was pretrained: counts from the latent vector, hidden entries above all."""


class CellPLMForPerturbation(CellPLMPreTrainedModel):
    """Predicts the counts after a perturbation from those before it."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__(config)
        self.cellplm = CellPLMModel(config)
        self.decoder = PerceptronDecoder(
            config.latent_size,
            config.decoder_hidden_size,
            config.num_genes,
            n_layers=config.decoder_layers,
            dropout=config.hidden_dropout_prob,
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cell_sets: Tensor | None = None,
        batch_index: Tensor | None = None,
        coordinates: Tensor | None = None,
        input_mask: Tensor | None = None,
        latent_noise: Tensor | None = None,
        cluster_draws: Tensor | None = None,
        target_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellPLMExpressionOutput:
        """Predict counts.

        ``labels`` are the counts after the perturbation, (n_cells, n_genes), -100 where they are not known; only hidden
        entries count where some are. The other inputs are those of :meth:`CellPLMForExpressionPrediction.forward`.
        """
        if input_mask is None and self.training and values is not None:
            input_mask = draw_input_mask(values, self.config)
        encoded = self.cellplm(
            input_ids,
            values,
            attention_mask,
            cell_sets,
            batch_index,
            coordinates,
            input_mask,
            latent_noise,
            cluster_draws,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_latent_loss=labels is not None,
            return_dict=True,
        )
        genes, _ = self.decoder(encoded.latent)
        asked = _at(genes, None, target_ids if target_ids is not None else input_ids, attention_mask)
        loss, losses = None, None
        if labels is not None:
            counted = asked.counted & (labels != -100)
            error = (asked.means - labels).masked_fill(~counted, 0)
            error = error if input_mask is None or target_ids is not None else error * input_mask
            losses = {"expression": _mean_square(error, counted), "latent": encoded.latent_loss}
            loss = losses["expression"] + losses["latent"]
        return CellPLMExpressionOutput(
            loss=loss,
            predicted_values=asked.means,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            losses=losses,
        )


def _at(genes: Tensor, dispersions: Tensor | None, ids: Tensor | None, attention_mask: Tensor | None) -> _Decoded:
    """What the decoder gives at some genes: of padding and of unknown genes it counts nowhere."""
    n_genes = genes.shape[1]
    if ids is None:
        counted = torch.ones_like(genes, dtype=torch.bool)
        return _Decoded(genes, None if dispersions is None else dispersions.expand_as(genes), counted)
    counted = ids < n_genes
    if attention_mask is not None and attention_mask.shape == ids.shape:
        counted = counted & attention_mask.bool()
    place = ids.clamp(max=n_genes - 1)
    return _Decoded(genes.gather(1, place), None if dispersions is None else dispersions[place], counted)


def _total(values: Tensor, counted: Tensor) -> Tensor:
    """Sum of what counts, (n_cells, 1)."""
    return (values * counted).sum(1, keepdim=True)


def _mean_square(error: Tensor, counted: Tensor) -> Tensor:
    """Mean over the cells of the mean over their genes, scalar."""
    per_cell = (error.square() * counted).sum(1) / counted.sum(1).clamp(min=1)
    return per_cell.sum() / counted.any(1).sum().clamp(min=1)


def _negative_binomial(counts: Tensor, means: Tensor, dispersions: Tensor, counted: Tensor, used: Tensor) -> Tensor:
    """Negative log likelihood, summed over the genes and averaged over the cells, scalar.

    Means are scaled to the total of the used genes first; what is not used has mean, dispersion and count 0, whose
    terms vanish.
    """
    eps = 1e-10
    scaled = means * (_total(counts, used) / _total(means, used).clamp(min=1e-12))
    x, mean, dispersion = (torch.where(used, part, 0) for part in (counts, scaled, dispersions))
    terms = torch.lgamma(dispersion + eps) + torch.lgamma(x + 1) - torch.lgamma(x + dispersion + eps)
    terms = terms + (dispersion + x) * torch.log1p(mean / (dispersion + eps))
    terms = terms + x * ((dispersion + eps).log() - (mean + eps).log())
    per_cell = (terms * counted).sum(1)
    return per_cell.sum() / counted.any(1).sum().clamp(min=1)
