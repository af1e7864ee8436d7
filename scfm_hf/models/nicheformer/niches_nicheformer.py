"""Nicheformer's head of cells: niches, regions, and the cells around a cell; and the counts that it is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.nicheformer.modeling_nicheformer import (
    NicheformerModel,
    NicheformerPreTrainedModel,
    first_tokens,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.models.nicheformer.configuration_nicheformer import NicheformerConfig


@dataclass
class NicheOutput(ModelOutput):
    """Output of the head of cells.

    Parameters
    ----------
    loss
        Scalar; only with ``labels``.
    logits
        Scores of the classes, or predicted numbers, (n_cells, num_labels); of ``niche_multiclass_classification``
        (n_cells, num_labels, num_cell_types).
    representation
        Mean of the states that the head sees, context tokens left out, (n_cells, feature_size): what the original calls
        the representation of a fine-tuned model.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    representation: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class NicheHead(nn.Module):
    """A linear layer, with another one and tanh before it where the configuration says so."""

    def __init__(self, config: NicheformerConfig) -> None:
        super().__init__()
        several = config.supervised_task == "niche_multiclass_classification"
        n_outputs = config.num_labels * (config.num_cell_types if several else 1)
        self.dense = nn.Linear(config.feature_size, config.feature_size) if config.classifier_dense else None
        self.out_proj = nn.Linear(config.feature_size, n_outputs, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n_cells, feature_size) -> (n_cells, n_outputs)."""
        return self.out_proj(features if self.dense is None else torch.tanh(self.dense(features)))


class NicheformerForSequenceClassification(NicheformerPreTrainedModel):
    """Labels cells, or predicts what surrounds them, as ``config.supervised_task`` says."""

    def __init__(self, config: NicheformerConfig) -> None:
        super().__init__(config)
        if config.supervised_task == "density_regression" and config.num_labels != 1:
            raise ValueError(f"density_regression predicts one number, not num_labels={config.num_labels}.")
        self.num_labels = config.num_labels
        self.nicheformer = NicheformerModel(config)
        self.classifier = NicheHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> NicheOutput:
        """Label cells.

        Parameters
        ----------
        input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            As of the encoder.
        labels
            Class numbers, (n_cells,), or what ``config.problem_type`` asks for; of ``niche_multiclass_classification``
            the number of neighbours of each type, (n_cells, num_cell_types); of ``niche_regression`` those numbers,
            (n_cells, num_labels); of ``density_regression`` densities, (n_cells,), or numbers of neighbours by type,
            which are summed.
        """
        config, body = self.config, self.nicheformer
        keep_all = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        given = input_ids if inputs_embeds is None else inputs_embeds
        n_tokens = 0 if given is None else given.shape[1]
        if given is not None and n_tokens <= config.max_position_embeddings:
            input_ids, attention_mask, inputs_embeds = body.pad_to_context(input_ids, attention_mask, inputs_embeds)
        encoded = body(input_ids, attention_mask, inputs_embeds, output_attentions, True, return_dict=True)
        layers = [encoded.hidden_states[number] for number in config.feature_layers or (-1,)]
        seen, representation = (
            self._combine([body.pool(states, input_ids, attention_mask, with_context=kept) for states in layers])
            for kept in (config.classifier_context, False)
        )
        logits = self.classifier(seen)
        if config.supervised_task == "niche_multiclass_classification":
            logits = logits.unflatten(-1, (config.num_labels, config.num_cell_types))
        elif config.supervised_task == "niche_regression" and config.regress_distribution:
            logits = logits.softmax(-1)
        attentions = encoded.attentions
        return NicheOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            representation=representation,
            cell_embedding=encoded.cell_embedding,
            hidden_states=tuple(first_tokens(one, n_tokens, 1) for one in encoded.hidden_states) if keep_all else None,
            attentions=attentions and tuple(first_tokens(one, n_tokens, -2, -1) for one in attentions),
        )

    def _combine(self, vectors: list[Tensor]) -> Tensor:
        """Vectors of several layers as one, (n_cells, feature_size)."""
        if self.config.feature_combination == "concat":
            return torch.cat(vectors, -1)
        stacked = torch.stack(vectors)
        return stacked.sum(0) if self.config.feature_combination == "sum" else stacked.mean(0)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of classes, mean squared error of numbers."""
        one_class_a_cell = self.config.problem_type in (None, "single_label_classification") and self.num_labels > 1
        if self.config.supervised_task == "niche_classification" and not one_class_a_cell:
            # Numbers, or several classes a cell, as every classifier of transformers takes them.
            return self.loss_function(labels=labels, pooled_logits=logits.float(), config=self.config)
        if self.config.supervised_task.endswith("classification"):
            wanted = labels.long().reshape(logits[:, 0].shape)
            if self.config.ignore_zeros:
                wanted = wanted.masked_fill(wanted == 0, -100)
            return nn.functional.cross_entropy(logits.float(), wanted)
        wanted = labels.to(logits.dtype)
        if self.config.supervised_task == "density_regression":
            wanted = wanted.reshape(len(logits), -1).sum(1, keepdim=True)
        elif self.config.regress_distribution:
            share = self.config.label_distribution == "share"
            wanted = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-12) if share else wanted.softmax(-1)
        return nn.functional.mse_loss(logits, wanted.reshape(logits.shape))


def niche_compositions(
    coordinates: ArrayLike, cell_types: ArrayLike, *, radius: float, sections: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Count the neighbours of each cell by type: the labels of Nicheformer's spatial tasks.

    Parameters
    ----------
    coordinates
        Where the cells are, (n_cells, n_dimensions).
    cell_types
        Code of each cell's type, int, (n_cells,), 0 to n_types - 1; a column of obs gives it by ``.cat.codes``.
    radius
        Cells at this distance or closer are neighbours, in the units of the coordinates.
    sections
        Section, slide or library of each cell, (n_cells,); cells of two sections are no neighbours.

    Returns
    -------
    (n_cells, n_types); a cell does not count itself. The sum of a row is the density of the cell's surroundings.

    Raises
    ------
    ValueError
        If the arrays differ in length, or a cell has no type.
    """
    coordinates, codes = np.asarray(coordinates, np.float64), np.asarray(cell_types).astype(np.int64)
    groups = np.zeros(len(codes), np.int64) if sections is None else np.unique(sections, return_inverse=True)[1]
    if not len(coordinates) == len(codes) == len(groups):
        raise ValueError(f"{len(coordinates)} coordinates, {len(codes)} types and {len(groups)} sections: one a cell.")
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} cells have no type (first: row {int(np.argmax(codes < 0))}).")
    counts = np.zeros((len(codes), int(codes.max(initial=-1)) + 1), np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        pairs = rows[cKDTree(coordinates[rows]).query_pairs(radius, output_type="ndarray")]
        for one, other in (pairs.T, pairs.T[::-1]):
            np.add.at(counts, (one, codes[other]), 1)
    return counts
