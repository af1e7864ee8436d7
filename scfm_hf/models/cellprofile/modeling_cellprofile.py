"""CellProfile: whole profiles to one vector a cell.

Order of the data: values x gene vectors, summed -> first state, factors and sketch; first state -> (norm, GELU,
dropout, linear) x L -> learned part; each part to unit length, joined -> cell embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.nn.pooling import unit_length


class CellProfilePreTrainedModel(CellPreTrainedModel):
    """Base of the CellProfile models."""

    config_class = CellProfileConfig
    config: CellProfileConfig
    base_model_prefix = "cellprofile"
    _no_split_modules = ["ProfileLayer"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected: Any = [r"^(decoder|classifier)\."]  # noqa: RUF012


class ProfileLayer(GradientCheckpointingLayer):
    """Norm, GELU, dropout, linear."""

    def __init__(self, config: CellProfileConfig, output_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.dense = nn.Linear(config.hidden_size, output_size)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, hidden_size) -> (n_cells, output_size)."""
        return self.dense(self.dropout(nn.functional.gelu(self.norm(states))))


class Parts(NamedTuple):
    """States of the encoder from the first on, and the two linear parts, (n_cells, factor_size) and so on."""

    states: list[Tensor]
    factors: Tensor
    sketch: Tensor


class CellProfileModel(CellProfilePreTrainedModel):
    """The encoder, and the two linear maps beside it.

    One table holds, gene by gene, the vector that the encoder starts from and the lines of both maps: a profile is
    summed once.
    """

    def __init__(self, config: CellProfileConfig) -> None:
        super().__init__(config)
        self.widths = (config.hidden_size, config.factor_size, config.sketch_size)
        self.genes = nn.Embedding(config.vocab_size, sum(self.widths), padding_idx=config.pad_token_id)
        outputs = [config.hidden_size] * (config.num_hidden_layers - 1) + [config.output_size]
        self.layers = nn.ModuleList(ProfileLayer(config, output_size) for output_size in outputs)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Vectors of the genes."""
        return self.genes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the vectors of the genes."""
        self.genes = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Expressed genes, int64, (n_cells, n_genes).
        values
            Their scaled values, as the tokenizer gives them, float, (n_cells, n_genes).
        attention_mask
            1 = real gene, (n_cells, n_genes); None: all are. A cell without any gets zeros.
        inputs_embeds
            Gene vectors in place of ``input_ids``, (n_cells, n_genes, hidden_size + factor_size + sketch_size).
        output_hidden_states
            Return the summed gene vectors and the states after each layer, each (n_cells, hidden_size); the last one,
            (n_cells, output_size), is also ``last_hidden_state``. A state is that of a cell and has no token axis.

        Raises
        ------
        ValueError
            If values are missing, or not exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        parts = self.parts(input_ids, values, attention_mask, inputs_embeds)
        return CellModelOutput(
            last_hidden_state=parts.states[-1],
            cell_embedding=self.embedding(parts),
            hidden_states=tuple(parts.states) if keep_all else None,
        )

    def parts(
        self,
        input_ids: Tensor | None,
        values: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> Parts:
        """States, factors and sketch of each cell; see :meth:`forward` for inputs and errors."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if values is None:
            raise ValueError("CellProfile needs the values of the genes: pass values=, as the tokenizer gives them.")
        weights = values if attention_mask is None else values * attention_mask
        state, factors, sketch = self._sum_genes(input_ids, inputs_embeds, weights).split(self.widths, dim=1)
        alive = None if attention_mask is None else attention_mask.bool().any(1, keepdim=True).to(state.dtype)
        states = [state]
        for layer in self.layers:
            states.append(layer(states[-1]) if alive is None else layer(states[-1]) * alive)
        return Parts(states, factors, sketch)

    def embedding(self, parts: Parts) -> Tensor:
        """What ``config.pooling`` asks for, each part of unit length, (n_cells, width)."""
        learned = parts.states[self.config.embedding_layer]
        if self.config.pooling == "joined":
            return join(learned, parts.factors, parts.sketch)
        return join({"learned": learned, "factors": parts.factors, "sketch": parts.sketch}[self.config.pooling])

    def _sum_genes(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, weights: Tensor) -> Tensor:
        """Sum of the gene vectors by weight, (n_cells, width), without one vector a gene and cell."""
        if inputs_embeds is not None:
            return torch.einsum("cg,cgw->cw", weights.to(inputs_embeds.dtype), inputs_embeds)
        assert input_ids is not None
        table = self.genes.weight
        return nn.functional.embedding_bag(input_ids, table, per_sample_weights=weights.to(table.dtype), mode="sum")


def join(*parts: Tensor) -> Tensor:
    """Scale each part to unit length and put them side by side; zeros stay zeros."""
    return torch.cat([unit_length(part) for part in parts], dim=1)


class CellProfileForSequenceClassification(CellProfilePreTrainedModel):
    """Labels cells by a linear map of the joined parts, whatever ``config.pooling`` is."""

    def __init__(self, config: CellProfileConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cellprofile = CellProfileModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.output_size + config.factor_size + config.sketch_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells,), -100 ignored."""
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        parts = self.cellprofile.parts(input_ids, values, attention_mask, inputs_embeds)
        logits = self.classifier(self.dropout(join(parts.states[-1], parts.factors, parts.sketch)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        states = tuple(parts.states) if keep_all else None
        return CellClassifierOutput(loss, logits, self.cellprofile.embedding(parts), states)
