"""SCimilarity's decoder, and its training: triplets of cells, and the profile from the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scimilarity.layers_scimilarity import HiddenLayer
from scfm_hf.models.scimilarity.modeling_scimilarity import SCimilarityModel, SCimilarityPreTrainedModel
from scfm_hf.models.scimilarity.triplets_scimilarity import UNLABELLED, mine_triplets, related_labels, triplet_losses

if TYPE_CHECKING:
    from scfm_hf.models.scimilarity.configuration_scimilarity import SCimilarityConfig


@dataclass
class SCimilarityPreTrainingOutput(CellExpressionOutput):
    """Output of encoder and decoder.

    Parameters
    ----------
    loss
        The weighted sum of ``losses``, scalar; only with ``labels``.
    predicted_values
        Reconstructed log values of all genes, (n_cells, num_genes).
    losses
        ``triplet`` and ``reconstruction`` before their weights, and ``l1``, scalars.
    triplet_losses
        Loss of each triplet, (n_triplets,).
    triplet_counts
        Candidates with a loss, and all candidates, int64, (2,).
    """

    latent: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    triplet_losses: Tensor | None = None
    triplet_counts: Tensor | None = None


class ProfileDecoder(nn.Module):
    """From the embedding back to the profile: the encoder's hidden layers in reverse, the first without dropout."""

    def __init__(self, config: SCimilarityConfig) -> None:
        super().__init__()
        sizes = [config.latent_size, *reversed(config.hidden_sizes)]
        dropouts = [0.0, *[config.hidden_dropout_prob] * (len(config.hidden_sizes) - 1)]
        self.layers = nn.ModuleList(
            HiddenLayer(before, after, dropout=dropout, eps=config.batch_norm_eps)
            for before, after, dropout in zip(sizes[:-1], sizes[1:], dropouts, strict=True)
        )
        self.projection = nn.Linear(sizes[-1], config.num_genes)

    def forward(self, latent: Tensor) -> Tensor:
        """(n_cells, latent_size) -> (n_cells, num_genes)."""
        for layer in self.layers:
            latent = layer(latent)
        return self.projection(latent)


class SCimilarityForPreTraining(SCimilarityPreTrainedModel):
    """Encoder and decoder, trained on triplets of labelled cells and on the reconstruction of their profiles."""

    def __init__(self, config: SCimilarityConfig) -> None:
        super().__init__(config)
        self.scimilarity = SCimilarityModel(config)
        self.decoder = ProfileDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        studies: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SCimilarityPreTrainingOutput:
        """Reconstruct profiles.

        Parameters
        ----------
        labels
            Class number of each cell, int64, (n_cells,); -100: the cell is reconstructed, but in no triplet.
        studies
            Number of each cell's study, int64, (n_cells,), for ``across_studies``; None: pairs are of any two cells.
        input_ids, values, attention_mask, inputs_embeds, output_hidden_states
            As in :meth:`SCimilarityModel.forward`. A loss needs genes by number, or whole profiles.
        """
        encoded = self.scimilarity(
            input_ids,
            values,
            attention_mask,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        predicted = self.decoder(encoded.latent)
        found: dict[str, Any] = {}
        if labels is not None:
            if inputs_embeds is not None or values is None:
                raise ValueError("A loss needs to know the genes: give input_ids=, or whole profiles as values=.")
            profiles = self.scimilarity.profiles(input_ids, values, attention_mask)
            found = self._losses(encoded.latent.float(), predicted, profiles, labels, studies)
        return SCimilarityPreTrainingOutput(
            predicted_values=predicted,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            latent=encoded.latent,
            **found,
        )

    def _losses(
        self, latent: Tensor, predicted: Tensor, profiles: Tensor, labels: Tensor, studies: Tensor | None
    ) -> dict[str, Any]:
        """The loss and its parts, by the names of the output's fields."""
        config = self.config
        names = [config.id2label[number] for number in range(config.num_labels)]
        strange = (labels != UNLABELLED) & ((labels < 0) | (labels >= len(names)))
        if strange.any():
            raise ValueError(
                f"labels holds {labels[strange].unique().tolist()[:5]}; the model knows {len(names)} labels, 0 to "
                f"{len(names) - 1}. Set num_labels= or id2label= when the model is made."
            )
        triplets = mine_triplets(
            latent,
            labels,
            margin=config.triplet_margin,
            selection=config.negative_selection,
            related=related_labels(names, config.label_ancestors),
            studies=studies if config.across_studies else None,
            # In evaluation the same batch shall give the same loss.
            generator=None if self.training else torch.Generator(latent.device).manual_seed(0),
        )
        of_triplets = triplet_losses(latent, triplets, margin=config.triplet_margin)
        projection = self.scimilarity.projection
        losses = {
            "triplet": of_triplets.mean(),
            "reconstruction": nn.functional.mse_loss(predicted.float(), profiles.float()),
            "l1": projection.weight.abs().sum() + projection.bias.abs().sum(),
        }
        share = config.triplet_loss_weight
        total = share * losses["triplet"] + (1 - share) * losses["reconstruction"]
        return {
            "loss": total + config.projection_l1_weight * losses["l1"],
            "losses": losses,
            "triplet_losses": of_triplets,
            "triplet_counts": torch.tensor([triplets.n_hard, triplets.n_viable], device=latent.device),
        }
