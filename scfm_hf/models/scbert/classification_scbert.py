"""scBERT's classifier of cells: one number a gene, then linear layers over all genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellClassifierOutput
from scfm_hf.models.scbert.modeling_scbert import ScBertModel, ScBertPreTrainedModel

if TYPE_CHECKING:
    from scfm_hf.models.scbert.configuration_scbert import ScBertConfig


class TorchLinear(nn.Linear):
    """A linear layer that begins as torch makes it, bias included: adapters learn nothing behind ReLUs without it.

    One with a single output begins with a bias of 1, so that its ReLU is open: it is all that the next layers see.
    """

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        bound = self.in_features**-0.5
        sizes = {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}
        drawn = {name: torch.empty(size, dtype=torch.float32).uniform_(-bound, bound) for name, size in sizes.items()}
        return {**drawn, "bias": torch.ones(1)} if self.out_features == 1 else drawn


class ConvolutionClassifier(nn.Module):
    """One number a token (a convolution as wide as the states), put into the place of its gene; three linear layers.

    A gene that a cell lacks leaves 0 in its place; tokens that have no place are not read.
    """

    def __init__(self, config: ScBertConfig) -> None:
        super().__init__()
        self.n_places = config.num_classifier_tokens
        self.convolution = TorchLinear(config.hidden_size, 1)
        self.linear1 = TorchLinear(self.n_places, config.classifier_hidden_size)
        self.linear2 = TorchLinear(config.classifier_hidden_size, config.classifier_output_size)
        self.linear3 = TorchLinear(config.classifier_output_size, config.num_labels)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def forward(self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Label cells.

        Parameters
        ----------
        states
            (n_cells, n_tokens, hidden_size).
        input_ids
            The genes, (n_cells, n_tokens); None: all of them, in the order of the vocabulary.
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.

        Returns
        -------
        Scores of the labels, (n_cells, num_labels).

        Raises
        ------
        ValueError
            If the genes are not given and are not all there.
        """
        numbers = self.convolution(states).squeeze(-1).relu()
        if attention_mask is not None:
            numbers = numbers * attention_mask.to(numbers.dtype)
        hidden = self.dropout(self.linear1(self._by_gene(numbers, input_ids)).relu())
        return self.linear3(self.dropout(self.linear2(hidden).relu()))

    def _by_gene(self, numbers: Tensor, input_ids: Tensor | None) -> Tensor:
        """Each number in the place of its gene, (n_cells, n_places)."""
        if input_ids is None:
            if numbers.shape[1] < self.n_places:
                raise ValueError(
                    f"Without input_ids this classifier needs all {self.n_places} tokens in the order of the "
                    f"vocabulary, got {numbers.shape[1]}. Give input_ids, or use classifier_type='linear'."
                )
            return numbers[:, : self.n_places]
        # One place more, which is not read, for padding and genes that were added later.
        places = numbers.new_zeros(len(numbers), self.n_places + 1)
        return places.scatter_add(1, input_ids.clamp(max=self.n_places), numbers)[:, : self.n_places]


class ScBertForSequenceClassification(ScBertPreTrainedModel):
    """Labels cells."""

    def __init__(self, config: ScBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scbert = ScBertModel(config)
        self.classifier = (
            ConvolutionClassifier(config)
            if config.classifier_type == "convolution"
            else nn.Linear(config.hidden_size, config.num_labels)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells.

        ``labels`` are class numbers, int64, (n_cells,). The other inputs are those of :meth:`ScBertModel.forward`;
        ``inputs_embeds`` must be of all genes in the order of the vocabulary if the classifier is a convolution.
        """
        encoded = self.scbert(
            input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        states = encoded.last_hidden_state
        if self.config.classifier_type == "convolution":
            logits = self.classifier(states, input_ids, attention_mask)
        else:
            logits = self.classifier(self.scbert.pool(states, attention_mask))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
