"""scPRINT's encoder: cell tokens (base, depth, one a class) before the tokens of the genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellModelOutput
from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig
from scfm_hf.models.scprint.layers_scprint import ScPrintLayer, perceptron

#: Largest value that the value encoder tells apart.
_MAX_VALUE = 100_000.0


@dataclass
class ScPrintOutput(CellModelOutput):
    """Output of the encoder; the first ``n_cell_tokens`` states are the cell's, the others its genes'.

    Parameters
    ----------
    cell_states
        Normed states of the cell tokens, (n_cells, n_cell_tokens, hidden_size).
    """

    cell_states: Tensor | None = None


class ScPrintPreTrainedModel(CellPreTrainedModel):
    """Base of the scPRINT models."""

    config_class = ScPrintConfig
    config: ScPrintConfig
    base_model_prefix = "scprint"
    _no_split_modules = ["ScPrintLayer"]  # noqa: RUF012
    _supports_flash_attn = False
    _supports_flex_attn = False
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [r"^(decoder|cell_decoder|class_decoders|classifier)\."]  # noqa: RUF012


class ScPrintModel(ScPrintPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        sizes = [1, *[size] * config.value_encoder_layers]
        self.gene_encoder = nn.Embedding(config.vocab_size, size)
        # Sinusoids of genome positions: a table of the checkpoint that does not train.
        self.position_encoder = nn.Embedding(config.vocab_size, size)
        self.gene_encoder.weight.requires_grad_(False)
        self.position_encoder.weight.requires_grad_(False)
        self.value_encoder = perceptron(sizes, dropout=config.hidden_dropout_prob)
        self.depth_encoder = perceptron(sizes, dropout=config.hidden_dropout_prob)
        self.class_encoder = nn.Embedding(1 + len(config.class_sizes or ()), size)
        self.metacell_encoder = nn.Embedding(2, size) if config.metacell else None
        self.layers = nn.ModuleList(ScPrintLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(size, config.layer_norm_eps)
        self.post_init()

    @property
    def first_class(self) -> int:
        """Place of the first class among the cell tokens."""
        return 3 if self.config.metacell else 2

    @property
    def n_cell_tokens(self) -> int:
        """Tokens of the cell before those of its genes."""
        return self.first_class + len(self.config.class_sizes or ())

    def get_input_embeddings(self) -> nn.Module:
        """The table of gene vectors."""
        return self.gene_encoder

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        depth: Tensor | None = None,
        masked: Tensor | None = None,
        is_metacell: Tensor | None = None,
        cell_states: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ScPrintOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes, int64, (n_cells, n_genes).
        values
            Raw counts, float, (n_cells, n_genes); None: genes without their expression.
        attention_mask
            1 at real genes, (n_cells, n_genes).
        depth
            Counts of the whole cell, genes that the model lacks included, (n_cells,); None: the sum of ``values``.
        masked
            True where the expression of a gene is hidden, bool, (n_cells, n_genes).
        is_metacell
            0 or 1 a cell, int64, (n_cells,); None: 0.
        cell_states
            Take the place of the cell tokens, (n_cells, n_cell_tokens, hidden_size).
        """
        genes = self.gene_encoder(input_ids) + self.position_encoder(input_ids)
        if values is not None:
            real = torch.ones_like(values) if attention_mask is None else attention_mask.to(values.dtype)
            values = values * real
            expressed = self.value_encoder(self._normalised(values)[..., None])
            genes = genes + (expressed if masked is None else expressed.masked_fill(masked.bool()[..., None], 0))
        if cell_states is None:
            if depth is None:
                if values is None:
                    raise ValueError("Give counts as values=, the total of each cell as depth=, or cell_states=.")
                depth = values.sum(1)
            cell_states = self._cell_tokens(depth, is_metacell)
        states = torch.cat([cell_states, genes], 1)
        mask = None
        if attention_mask is not None:
            of_cell = attention_mask.new_ones(len(genes), self.n_cell_tokens)
            mask = torch.cat([of_cell, attention_mask], 1).bool()[:, None, None].expand(-1, 1, states.shape[1], -1)
        hidden_states, attentions = [states], []
        with self.eager_while(output_attentions):
            for layer in self.layers:
                states, probabilities = layer(states, mask)
                hidden_states.append(states)
                attentions.append(probabilities)
        states = self.norm(states)
        cells = states[:, : self.n_cell_tokens]
        wanted = self.config.embedding_layer % len(hidden_states)
        pooled = states if wanted == len(self.layers) else hidden_states[wanted]
        return ScPrintOutput(
            last_hidden_state=states,
            cell_embedding=self._pool(pooled[:, : self.n_cell_tokens]),
            cell_states=cells,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _normalised(self, values: Tensor) -> Tensor:
        """Counts as the value encoder wants them."""
        if self.config.normalization == "log":
            return torch.log2(1 + values).clamp(0, _MAX_VALUE)
        return (values / values.sum(1, keepdim=True)).clamp(0, _MAX_VALUE)

    def _cell_tokens(self, depth: Tensor, is_metacell: Tensor | None) -> Tensor:
        """(n_cells, n_cell_tokens, hidden_size)."""
        of_depth = self.depth_encoder(torch.log2(1 + depth.to(self.dtype))[:, None])[:, None]
        classes = self.class_encoder.weight.expand(len(depth), -1, -1)
        if self.config.base_first:
            return torch.cat([classes[:, :1], of_depth, classes[:, 1:]], 1)
        if self.metacell_encoder is None:
            return torch.cat([of_depth, classes], 1)
        flags = torch.zeros_like(depth, dtype=torch.long) if is_metacell is None else is_metacell.long()
        return torch.cat([of_depth, self.metacell_encoder(flags)[:, None], classes], 1)

    def _pool(self, cells: Tensor) -> Tensor:
        """One vector a cell from its cell tokens."""
        if self.config.pooling == "mean":
            return cells.mean(1)
        names = list(self.config.class_sizes or ())
        chosen = [self.first_class + names.index(name) for name in self.config.pooled_classes or names]
        return cells[:, chosen].mean(1)
