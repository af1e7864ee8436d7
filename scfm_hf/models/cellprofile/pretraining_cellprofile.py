"""CellProfile's pretraining: views of a cell, and cells of a class, belong together; the profile is told back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.cellprofile.modeling_cellprofile import CellProfileModel, CellProfilePreTrainedModel

if TYPE_CHECKING:
    from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig


@dataclass
class CellProfilePreTrainingOutput(ModelOutput):
    """Output of the pretraining model.

    Parameters
    ----------
    loss
        Contrastive loss plus the weighted reconstruction, scalar; only with ``labels``.
    reconstruction
        Values of all genes told from the learned part, (n_cells, vocab_size); with ``whole_values`` only of those.
    losses
        The parts of ``loss``: ``contrast`` and ``reconstruction``.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None


class ProfileDecoder(nn.Module):
    """Tells the values of all genes from the learned part."""

    def __init__(self, config: CellProfileConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.output_size, config.hidden_size)
        self.genes = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, learned: Tensor) -> Tensor:
        """(n_cells, output_size) -> (n_cells, vocab_size)."""
        return self.genes(nn.functional.gelu(self.dense(learned)))


class CellProfileForPreTraining(CellProfilePreTrainedModel):
    """Learns from views of cells, with labels where there are some."""

    def __init__(self, config: CellProfileConfig) -> None:
        super().__init__(config)
        self.cellprofile = CellProfileModel(config)
        self.decoder = ProfileDecoder(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that has a line a gene."""
        return self.decoder.genes

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace that layer."""
        self.decoder.genes = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        coarse_classes: Tensor | None = None,
        view_of: Tensor | None = None,
        studies: Tensor | None = None,
        whole_values: Tensor | None = None,
        measured: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellProfilePreTrainingOutput:
        """Encode views of cells and compare them.

        Parameters
        ----------
        input_ids, values, attention_mask, inputs_embeds
            The views, see :meth:`CellProfileModel.forward`.
        labels
            Class of each view's cell, int64, (n_views,); -100 where it is not known.
        coarse_classes
            Coarser class that each class is a kind of, itself where there is none, int64, (n_views,). A cell whose
            class is coarse ("T cell") is neither told from those of its kinds ("CD4 T cell") nor belongs to them.
        view_of
            Cell that each view was made of, int64, (n_views,); None: each is a cell of its own.
        studies
            Study of each cell, int64, (n_views,): a cell without a class is told from those of its own study alone.
            None: all of one study.
        whole_values, measured
            Values of the genes, in the order of the vocabulary, before a view was made, and 1 where the study measured
            them, (n_told, n_genes); they may be of the first views alone. None: the reconstruction has no loss.
        output_hidden_states
            Return the states of all layers.
        """
        encoded = self.cellprofile(
            input_ids, values, attention_mask, inputs_embeds, output_hidden_states, return_dict=True
        )
        learned = encoded.last_hidden_state
        reconstruction = self.decoder(learned if whole_values is None else learned[: len(whole_values)])
        loss, losses = None, None
        if labels is not None:
            losses = {
                "contrast": supervised_contrast(
                    learned,
                    labels,
                    labels if coarse_classes is None else coarse_classes,
                    torch.arange(len(labels), device=labels.device) if view_of is None else view_of,
                    torch.zeros_like(labels) if studies is None else studies,
                    self.config.temperature,
                )
            }
            if whole_values is not None:
                error = (reconstruction[:, : whole_values.shape[1]] - whole_values).square()
                losses["reconstruction"] = (error if measured is None else error * measured).mean()
            weights = {"contrast": 1.0, "reconstruction": self.config.reconstruction_weight}
            loss = torch.stack([weights[name] * part for name, part in losses.items()]).sum()
        return CellProfilePreTrainingOutput(
            loss, reconstruction, encoded.cell_embedding, encoded.hidden_states, losses=losses
        )


def supervised_contrast(
    vectors: Tensor, labels: Tensor, coarse_classes: Tensor, view_of: Tensor, studies: Tensor, temperature: float
) -> Tensor:
    """Mean over views of the cross entropy of finding those that belong to them, scalar.

    To a view belong the other views of its cell, and the views of cells of its class. It is told from all cells with a
    class if it has one itself, else from the cells of its study. A view that nothing belongs to counts 0.

    Parameters
    ----------
    vectors
        (n_views, width).
    labels, coarse_classes, view_of, studies
        See :meth:`CellProfileForPreTraining.forward`.
    temperature
        Divides the cosine similarities.

    References
    ----------
    Khosla et al. 2020, NeurIPS, "Supervised Contrastive Learning", equation 2.
    """
    unit = nn.functional.normalize(vectors.float(), dim=1)
    scores = unit @ unit.T / temperature
    known = labels >= 0
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same_cell = view_of[:, None] == view_of[None]
    both_known = known[:, None] & known[None]
    belongs = (same_cell | (both_known & (labels[:, None] == labels[None]))) & others
    is_coarse = labels == coarse_classes
    kinds = (coarse_classes[:, None] == coarse_classes[None]) & (labels[:, None] != labels[None])
    unclear = kinds & (is_coarse[:, None] | is_coarse[None])
    told_from = (both_known & ~unclear) | (~known[:, None] & (studies[:, None] == studies[None]))
    compared = (told_from | belongs) & others
    scores = scores.masked_fill(~compared, torch.finfo(scores.dtype).min)
    log_shares = scores - scores.logsumexp(1, keepdim=True)
    n_belonging = belongs.sum(1)
    found = log_shares.masked_fill(~belongs, 0.0).sum(1) / n_belonging.clamp(min=1)
    return -found.mean()
