"""Heads that fit the encoder of any family: from the states of its tokens, or from its cell embedding."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.training.objectives.cell_batch import CellBatch, Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.training.objectives.objective import Seen


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of what an encoder gives.

    Parameters
    ----------
    embedding_size
        Of ``cell_embedding``.
    state_size
        Of the state of each token; None where the encoder has none.
    vocab_size
        Ids of genes and special tokens.
    gene_size
        Width of the encoder's gene embedding, if it is one over the whole vocabulary; None otherwise.
    hides_values
        Whether the encoder has a value that means "hidden".
    classes
        Classes of each annotation of the cells.
    """

    embedding_size: int
    state_size: int | None
    vocab_size: int
    gene_size: int | None
    hides_values: bool
    classes: Mapping[str, Sequence[str]]


def mask_value_of(config: CellConfig) -> float | None:
    """The value that means "hidden" to an encoder; None if it has none."""
    for name in ("mask_value", "mask_value_id"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    return None


def gene_embedding(encoder: PreTrainedModel, vocab_size: int) -> Tensor | None:
    """Weight of the encoder's gene embedding, (at least vocab_size, width); None if it is none over the vocabulary."""
    try:
        weight = getattr(encoder.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return weight if weight is not None and weight.ndim == 2 and len(weight) >= vocab_size else None


def encode(encoder: PreTrainedModel, inputs: Mapping[str, Tensor]) -> ModelOutput:
    """Run an encoder; columns of its tokenizer that only heads of the family take are left out."""
    taken = inspect.signature(encoder.forward).parameters
    return encoder(**{name: column for name, column in inputs.items() if name in taken}, return_dict=True)


@torch.no_grad()
def measure(
    encoder: PreTrainedModel, tokenizer: CellTokenizer, family: str, classes: Mapping[str, Sequence[str]]
) -> EncoderShape:
    """Find an encoder's sizes by a small made-up cell."""
    batch = _made_up_cell(encoder, tokenizer, family)
    was_training = encoder.training
    encoder.eval()
    outputs = encode(encoder, {name: column.to(encoder.device) for name, column in batch.items()})
    encoder.train(was_training)
    states, vocab_size = outputs.last_hidden_state, len(tokenizer)
    n_tokens = next(iter(batch.values())).shape[1]
    has_states = states is not None and states.ndim == 3 and states.shape[1] >= n_tokens
    weight = gene_embedding(encoder, vocab_size)
    return EncoderShape(
        embedding_size=outputs.cell_embedding.shape[-1],
        state_size=states.shape[-1] if has_states else None,
        vocab_size=vocab_size if weight is None else len(weight),
        gene_size=None if weight is None else weight.shape[1],
        hides_values=mask_value_of(encoder.config) is not None,
        classes=classes,
    )


def _made_up_cell(encoder: PreTrainedModel, tokenizer: CellTokenizer, family: str) -> dict[str, Tensor]:
    """A cell of a dozen genes as a batch."""
    cells = CellBatch([{"cell_id": 0}], tokenizer=tokenizer, classes={}, config=encoder.config, family=family)
    genes, scheme = cells.gene_ids[:12], tokenizer.scheme()
    if not scheme.looks_ahead:
        return cells.pad(cells.encode([Profile(genes, np.arange(1.0, len(genes) + 1))]))
    columns = {
        name: [np.dtype(column.dtype).type(column.pad)] if column.per_cell else [np.ones(len(genes))]
        for name, column in scheme.columns.items()
    }
    return cells.pad({**columns, "input_ids": [genes], "attention_mask": [np.ones(len(genes), np.int64)]})


def token_states(seen: Seen) -> Tensor:
    """States of the tokens, (n_cells, n_tokens, state_size); some encoders put a state of the cell before them."""
    return seen.outputs.last_hidden_state[:, -seen.inputs["input_ids"].shape[1] :]


class TokenDecoder(nn.Module):
    """Numbers for each token: from its state, or from gene and cell embedding where the encoder gives no states.

    Parameters
    ----------
    shape
        Of the encoder.
    n_outputs
        Numbers a token.
    hidden_size
        Width of the hidden layer.
    """

    def __init__(self, shape: EncoderShape, n_outputs: int, *, hidden_size: int = 64) -> None:
        super().__init__()
        self.of_cell = None
        if shape.state_size is None:
            self.of_cell = QueryDecoder(shape, n_outputs, hidden_size=hidden_size)
        else:
            self.layers = nn.Sequential(
                nn.Linear(shape.state_size, hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, n_outputs),
            )

    def forward(self, seen: Seen, places: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens, n_outputs); with ``places``, bool, (n_cells, n_tokens): those alone, (n, n_outputs)."""
        if self.of_cell is not None:
            decoded: Tensor = self.of_cell(seen.outputs.cell_embedding, seen.inputs["input_ids"])
            return decoded if places is None else decoded[places]
        states = token_states(seen)
        return self.layers(states if places is None else states[places])


class QueryDecoder(nn.Module):
    """Numbers for any gene from the cell embedding, by a query for the gene.

    One hidden layer over cell, gene and context, and beside it the inner product of cell and gene.

    Parameters
    ----------
    shape
        Of the encoder.
    n_outputs
        Numbers a gene.
    n_context
        Further numbers that are known of a cell, such as its depth.
    hidden_size
        Width of the hidden layer and of the genes' vectors.

    References
    ----------
    Rosen et al. 2023 (UCE), Methods; Cui et al. 2024 (scGPT), Methods, "Gene expression prediction for cell modelling".
    """

    def __init__(self, shape: EncoderShape, n_outputs: int, *, n_context: int = 0, hidden_size: int = 64) -> None:
        super().__init__()
        self.genes = nn.Embedding(shape.vocab_size, hidden_size)
        nn.init.normal_(self.genes.weight, std=0.1)
        self.cell = nn.Linear(shape.embedding_size, hidden_size)
        self.factors = nn.Linear(shape.embedding_size, n_outputs * hidden_size)
        self.context = nn.Linear(n_context, hidden_size, bias=False) if n_context else None
        self.out_proj = nn.Linear(hidden_size, n_outputs)
        self.n_outputs = n_outputs

    def forward(self, cells: Tensor, gene_ids: Tensor, context: Tensor | None = None) -> Tensor:
        """Predict genes.

        Parameters
        ----------
        cells
            (n_cells, embedding_size).
        gene_ids
            (n_cells, n_queries).
        context
            (n_cells, n_context).

        Returns
        -------
        (n_cells, n_queries, n_outputs).
        """
        genes = self.genes(gene_ids)
        of_cell = self.cell(cells)
        if self.context is not None and context is not None:
            of_cell = of_cell + self.context(context)
        hidden = nn.functional.gelu(genes + of_cell[:, None])
        factors = self.factors(cells).unflatten(1, (self.n_outputs, -1))
        return self.out_proj(hidden) + genes @ factors.transpose(1, 2)


class TokenClassifier(nn.Module):
    """Which token stands at a place, from its state: by the encoder's own gene embedding where it has one.

    Where the encoder gives no states, every place is told from the cell embedding alone.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        width = shape.state_size or shape.embedding_size
        target = shape.gene_size or width
        self.of_cell = shape.state_size is None
        self.dense = nn.Linear(width, target)
        self.norm = nn.LayerNorm(target)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.decoder = None if shape.gene_size else nn.Linear(target, shape.vocab_size, bias=False)

    def forward(self, seen: Seen, places: Tensor) -> Tensor:
        """Scores of all tokens at some places; ``places`` bool, (n_cells, n_tokens) -> (n, vocab_size)."""
        if self.of_cell:
            states = seen.outputs.cell_embedding.repeat_interleave(places.sum(1), 0)
        else:
            states = token_states(seen)[places]
        return self.scores(states, seen.embedding)

    def scores(self, states: Tensor, embedding: Tensor | None) -> Tensor:
        """Scores of all tokens from states, (n, width) -> (n, vocab_size)."""
        hidden = self.norm(nn.functional.gelu(self.dense(states)))
        if self.decoder is not None:
            return self.decoder(hidden) + self.bias
        assert embedding is not None
        return hidden @ embedding.T + self.bias


def perceptron(n_inputs: int, n_outputs: int, *, hidden_size: int = 64) -> nn.Sequential:
    """Two hidden layers, each followed by GELU."""
    return nn.Sequential(
        nn.Linear(n_inputs, hidden_size),
        nn.GELU(),
        nn.Linear(hidden_size, hidden_size),
        nn.GELU(),
        nn.Linear(hidden_size, n_outputs),
    )


def masked_mean_loss(each: Tensor, counts: Tensor) -> Tensor:
    """Mean of losses over the places that count, scalar; 0 if there is none."""
    weights = counts.to(each.dtype)
    return (each * weights).sum() / weights.sum().clamp(min=1)


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """NumPy arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
