"""What models return: one output class a kind of head, all with the cell's embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CellModelOutput(ModelOutput):
    """Output of an encoder.

    Parameters
    ----------
    last_hidden_state
        States after the last layer, float, (n_cells, n_tokens, hidden_size).
    cell_embedding
        One vector a cell by the recipe of ``config.pooling``, float, (n_cells, embedding_size).
    hidden_states
        On request: the embeddings and the states after each layer, each (n_cells, n_tokens, hidden_size).
    attentions
        On request: attention probabilities of each layer, each (n_cells, n_heads, n_tokens, n_tokens).
    """

    last_hidden_state: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CellMaskedLMOutput(ModelOutput):
    """Output of a head that predicts which gene stands at a position.

    Parameters
    ----------
    loss
        Mean cross entropy over the positions whose label is not -100, scalar; only with ``labels``.
    logits
        Scores of the vocabulary, float, (n_cells, n_tokens, vocab_size).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CellClassifierOutput(ModelOutput):
    """Output of a head that labels cells, (n_cells, num_labels), or genes, (n_cells, n_tokens, num_labels).

    Parameters
    ----------
    loss
        Mean cross entropy (labels -100 ignored), scalar; only with ``labels``.
    logits
        Scores of the labels, float.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CellExpressionOutput(ModelOutput):
    """Output of a head that predicts expression values.

    Parameters
    ----------
    loss
        Scalar; only with ``labels``.
    predicted_values
        Predicted expression in the units of the model's ``values``, float, (n_cells, n_tokens).
    expressed_probability
        Probability that a gene is expressed at all, float in [0, 1], (n_cells, n_tokens); only of models with such a
        head.
    """

    loss: Tensor | None = None
    predicted_values: Tensor | None = None
    expressed_probability: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
