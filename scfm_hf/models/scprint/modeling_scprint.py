"""scPRINT's encoder: tokens of the cell (base, depth, one a class) and tokens of its genes, which see each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.scprint.configuration_scprint import N_CELL_LAYERS, ScPrintConfig
from scfm_hf.models.scprint.decoders_scprint import Bottleneck, LabelDecoder
from scfm_hf.models.scprint.genes_scprint import GeneTables
from scfm_hf.models.scprint.layers_scprint import ScPrintLayer, perceptron

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Largest value that the value encoder tells apart.
_MAX_VALUE = 100_000.0


@dataclass
class ScPrintOutput(CellModelOutput):
    """Output of the encoder; ``last_hidden_state`` and ``hidden_states`` are those of the genes.

    Parameters
    ----------
    cell_states
        Normed states of the cell tokens, after the bottlenecks, (n_cells, n_cell_tokens, hidden_size).
    cell_hidden_states
        On request: their inputs and their states after each layer, the last one normed.
    attentions
        Cell tokens stand before the genes; with ``cell_blocks`` there are genes alone.
    """

    cell_states: Tensor | None = None
    cell_hidden_states: tuple[Tensor, ...] | None = None


class ScPrintPreTrainedModel(CellPreTrainedModel):
    """Base of the scPRINT models."""

    config_class = ScPrintConfig
    config: ScPrintConfig
    base_model_prefix = "scprint"
    _no_split_modules = ["ScPrintLayer"]  # noqa: RUF012
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [  # noqa: RUF012
        r"^(count_decoder|cell_decoder|class_decoders|batch_discriminator|classifier)\."
    ]
    # Layers with a single input.
    _never_quantised: ClassVar[tuple[str, ...]] = ("value_encoder", "depth_encoder")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ScPrintLayer):
            # What joins the residual stream starts smaller in deep models.
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            for linear in (module.attention.out_proj, module.linear2):
                init.normal_(linear.weight, std=std)
        if isinstance(module, LabelDecoder):
            init.constant_(module.output.bias, module.initial_bias)

    def get_input_embeddings(self) -> GeneTables:
        """The frozen tables of gene and position vectors."""
        body = self if isinstance(self, ScPrintModel) else self.scprint
        return body.genes

    def resize_token_embeddings(self, new_num_tokens: int | None = None, **_: Any) -> GeneTables:
        """Append genes without vectors (zeros) to the tables; ``add_genes`` brings vectors with them."""
        tables = self.get_input_embeddings()
        missing = (new_num_tokens or tables.num_embeddings) - tables.num_embeddings
        if missing < 0:
            raise ValueError(f"The model has {tables.num_embeddings} genes, and none can be taken from it.")
        if missing:
            width = (tables.vectors.n_columns, tables.positions.n_columns)
            tables.grow(*(np.zeros((missing, size), np.float32) for size in width))
            self.config.vocab_size = tables.num_embeddings
        return tables


class ScPrintModel(ScPrintPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__(config)
        size, dropout = config.hidden_size, float(config.hidden_dropout_prob)
        sizes = [1, *[size] * config.value_encoder_layers]
        self.genes = GeneTables(config)
        self.value_encoder = perceptron(sizes, dropout=dropout)
        self.depth_encoder = perceptron(sizes, dropout=dropout) if config.depth_token else None
        self.class_encoder = nn.Embedding(1 + len(config.class_names or ()), size)
        self.metacell_encoder = nn.Embedding(2, size) if config.metacell else None
        self.layers = _layers(config, config.num_hidden_layers)
        self.norm = nn.LayerNorm(size, config.layer_norm_eps)
        self.cell_layers = _layers(config, N_CELL_LAYERS) if config.cell_blocks else None
        self.cell_norm = nn.LayerNorm(size, config.layer_norm_eps) if config.cell_blocks else None
        self.bottlenecks = nn.ModuleDict(
            {name: Bottleneck(size, n_numbers) for name, n_numbers in (config.class_bottlenecks or {}).items()}
        )
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        depth: Tensor | None = None,
        masked: Tensor | None = None,
        is_metacell: Tensor | None = None,
        cell_states: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
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
            Take the place of the cell tokens, (n_cells, n_cell_tokens, hidden_size): genes are then generated from
            the cell. With ``cell_blocks`` they are what the genes read.
        inputs_embeds
            Vectors of genes and their positions in place of ``input_ids``, (n_cells, n_genes, hidden_size).
        output_attentions, output_hidden_states
            Return attention probabilities (this call then runs with eager attention) and the states of all layers.

        Raises
        ------
        ValueError
            If not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or there is neither depth nor counts.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        asked = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        genes = self._gene_tokens(input_ids, inputs_embeds, values, attention_mask, masked)
        visible = None if attention_mask is None else attention_mask.bool()
        cells = cell_states
        if cells is None:
            cells = self._cell_tokens(len(genes), values, attention_mask, depth, is_metacell)
        cells = cells.to(genes.dtype)
        with self.eager_while(asked):
            if self.config.cell_blocks:
                found = self._run_apart(cells, genes, visible, generates=cell_states is not None)
            else:
                found = self._run_together(cells, genes, visible, keep_all=keep_all)
        gene_states, hidden, of_cells, attentions = found
        if visible is not None:
            # A cell without a gene has nothing to attend to, and gives zeros.
            shown = visible.any(1)[:, None, None].to(gene_states.dtype)
            gene_states = gene_states * shown
            of_cells = [*of_cells[:-1], of_cells[-1] * shown] if of_cells else []
        embedding = self.pool(self._pooled(of_cells)) if of_cells else None
        if embedding is not None and visible is not None:
            embedding = embedding * visible.any(1, keepdim=True)
        hidden = [*hidden, gene_states]
        return ScPrintOutput(
            last_hidden_state=gene_states,
            cell_embedding=embedding,
            hidden_states=tuple(hidden) if keep_all else None,
            attentions=tuple(one for one in attentions if one is not None) if asked else None,
            cell_states=of_cells[-1] if of_cells else None,
            cell_hidden_states=tuple(of_cells) if keep_all and of_cells else None,
        )

    # ------------------------------------------------------------------------------------------------------- tokens

    def _gene_tokens(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        values: Tensor | None,
        attention_mask: Tensor | None,
        masked: Tensor | None,
    ) -> Tensor:
        """(n_cells, n_genes, hidden_size)."""
        dtype = self.class_encoder.weight.dtype
        genes = self.genes(input_ids) if inputs_embeds is None else inputs_embeds
        genes = genes.to(dtype)
        if values is None:
            return genes
        values = values.float() if attention_mask is None else values.float() * attention_mask
        if self.config.normalization == "log":
            values = torch.log2(1 + values)
        else:
            values = values / values.sum(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
        expressed = self.value_encoder(values.clamp(0, _MAX_VALUE).to(dtype)[..., None])
        return genes + (expressed if masked is None else expressed.masked_fill(masked.bool()[..., None], 0))

    def _cell_tokens(
        self,
        n_cells: int,
        values: Tensor | None,
        attention_mask: Tensor | None,
        depth: Tensor | None,
        is_metacell: Tensor | None,
    ) -> Tensor:
        """(n_cells, n_cell_tokens, hidden_size)."""
        classes = self.class_encoder.weight.expand(n_cells, -1, -1)
        before: list[Tensor] = []
        if self.depth_encoder is not None:
            feature = torch.log2(1 + cell_depth(values, attention_mask, depth).float()).to(classes.dtype)
            before.append(self.depth_encoder(feature[:, None])[:, None])
        if self.config.base_first:
            return torch.cat([classes[:, :1], *before, classes[:, 1:]], 1)
        if self.metacell_encoder is not None:
            absent = torch.zeros(n_cells, dtype=torch.long, device=classes.device)
            flags = absent if is_metacell is None else is_metacell.long().flatten()
            before.append(self.metacell_encoder(flags)[:, None])
        return torch.cat([*before, classes], 1)

    # ------------------------------------------------------------------------------------------------------- layers

    def _run_together(
        self, cells: Tensor, genes: Tensor, visible: Tensor | None, *, keep_all: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor | None]]:
        """States of genes, those before, states of cell tokens by layer, and attentions, of one stack for all."""
        n_cell_tokens, n_layers = cells.shape[1], len(self.layers)
        wanted = self.config.embedding_layer % (n_layers + 1)
        states = torch.cat([cells, genes], 1)
        if visible is not None:
            visible = torch.cat([visible.any(1, keepdim=True).expand(-1, n_cell_tokens), visible], 1)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=visible)
        hidden: list[Tensor] = []
        of_cells: list[Tensor] = []
        attentions: list[Tensor | None] = []
        for number, layer in enumerate(self.layers):
            if keep_all or number == wanted:
                cells, genes = states[:, :n_cell_tokens], states[:, n_cell_tokens:]
                hidden.append(genes)
                of_cells.append(cells)
                # The states that are given are those that go on, so that gradients reach them.
                states = torch.cat([cells, genes], 1)
            states, probabilities = layer(states, mask)
            attentions.append(probabilities)
        states = self.norm(states)
        return (
            states[:, n_cell_tokens:],
            hidden,
            [*of_cells, self.squeeze_classes(states[:, :n_cell_tokens])],
            attentions,
        )

    def _run_apart(
        self, cells: Tensor, genes: Tensor, visible: Tensor | None, *, generates: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor | None]]:
        """The same where cell tokens have layers of their own; genes that are generated read the cell's states."""
        assert self.cell_layers is not None
        assert self.cell_norm is not None
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=genes, attention_mask=visible)
        hidden: list[Tensor] = []
        attentions: list[Tensor | None] = []
        states = genes
        for number, layer in enumerate(self.layers):
            crossed = number % 2 == 0
            if crossed:
                hidden.append(states)
                if generates:
                    states, _ = layer(states, None, cells)
                continue
            states, probabilities = layer(states, mask)
            attentions.append(probabilities)
        states = self.norm(states)
        if generates:
            return states, hidden, [], attentions
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=cells, attention_mask=visible, encoder_hidden_states=states
        )
        of_cells = [cells]
        for number, layer in enumerate(self.cell_layers):
            cells, _ = layer(cells, mask, states) if number % 2 == 0 else layer(cells, None)
            of_cells.append(cells)
        return states, hidden, [*of_cells[:-1], self.squeeze_classes(self.cell_norm(cells))], attentions

    # ------------------------------------------------------------------------------------------------------ pooling

    def squeeze_classes(self, cell_states: Tensor) -> Tensor:
        """States of the cell tokens with the bottlenecks applied, same shape."""
        if not self.bottlenecks:
            return cell_states
        tokens = list(cell_states.unbind(1))
        for place, name in enumerate(self.config.class_names or (), self.config.first_class):
            if name in self.bottlenecks:
                tokens[place] = self.bottlenecks[name](tokens[place])
        return torch.stack(tokens, 1)

    def _pooled(self, of_cells: list[Tensor]) -> Tensor:
        """States of the cell tokens at ``config.embedding_layer``."""
        layer = self.config.embedding_layer
        if self.config.cell_blocks:
            return of_cells[2 * (layer % (N_CELL_LAYERS + 1))]
        wanted = layer % (self.config.num_hidden_layers + 1)
        # Only the wanted state was kept, unless all were asked for.
        return of_cells[wanted] if len(of_cells) > 2 else of_cells[-1 if wanted == self.config.num_hidden_layers else 0]

    def pool(self, cell_states: Tensor) -> Tensor:
        """One vector a cell from its cell tokens by ``config.pooling``, (n_cells, hidden_size)."""
        if self.config.pooling == "mean":
            return cell_states.mean(1)
        names = self.config.class_names or []
        chosen = [self.config.first_class + names.index(name) for name in self.config.pooled_classes or names]
        return cell_states[:, chosen].mean(1) if chosen else cell_states.mean(1)


def _layers(config: ScPrintConfig, n_layers: int) -> nn.ModuleList:
    """A stack; with ``cell_blocks`` a layer is two blocks, the first of which reads other states."""
    kinds: Iterable[bool] = (True, False) if config.cell_blocks else (False,)
    return nn.ModuleList(ScPrintLayer(config, crossed=crossed) for _ in range(n_layers) for crossed in kinds)


def cell_depth(values: Tensor | None, attention_mask: Tensor | None, depth: Tensor | None) -> Tensor:
    """The depth that was given, else the sum of the counts, (n_cells,)."""
    if depth is not None:
        return depth.flatten()
    if values is None:
        raise ValueError("Give counts as values=, the total of each cell as depth=, or cell_states=.")
    return (values if attention_mask is None else values * attention_mask).sum(1)


class ScPrintForSequenceClassification(ScPrintPreTrainedModel):
    """Labels cells from the tokens that ``config.pooling`` names: a new class, or one with other labels."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__(config)
        self.scprint = ScPrintModel(config)
        hidden = config.class_hidden_sizes or []
        dropout = float(config.hidden_dropout_prob)
        self.classifier = LabelDecoder(config.hidden_size, hidden, config.num_labels, dropout=dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        depth: Tensor | None = None,
        is_metacell: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are classes, int64, (n_cells,). Other inputs as of :class:`ScPrintModel`."""
        encoded = self.scprint(
            input_ids, values, attention_mask, depth, None, is_metacell, None, inputs_embeds,
            output_attentions, output_hidden_states,
            return_dict=True,
        )  # fmt: skip
        logits = self.classifier(self.scprint.pool(encoded.cell_states))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits.float(), config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
