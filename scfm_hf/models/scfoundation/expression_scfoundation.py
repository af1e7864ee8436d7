"""scFoundation's decoder: a Performer over all genes, for their states and their expression at the depth asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scfoundation.modeling_scfoundation import ScFoundationModel, ScFoundationPreTrainedModel
from scfm_hf.nn.losses import masked_mse
from scfm_hf.nn.performer import PerformerLayer, ProjectionSchedule, run_performer_layers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig


@dataclass
class ScFoundationExpressionOutput(CellExpressionOutput):
    """Output of encoder and decoder.

    Parameters
    ----------
    loss
        Mean squared error over the genes that have a label, scalar; only with ``labels``.
    predicted_values
        Log-normalised expression of all genes by id, (n_cells, num_genes).
    gene_embeddings
        On request: state of each gene in its cell, (n_cells, num_genes, decoder_hidden_size).
    decoder_hidden_states
        On request: states of the decoder before its first and after each layer, with the two depths behind the genes,
        each (n_cells, num_genes + 2, decoder_hidden_size).
    decoder_attentions
        On request: what each position attends to, of each layer, each (n_cells, n_heads, num_genes + 2, num_genes + 2).
    """

    gene_embeddings: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None


class GeneDecoder(nn.Module):
    """Linear layer to the decoder's width, Performer layers, two norms in a row, and expression from each state."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__()
        self.config = config
        size, eps = config.decoder_hidden_size, config.layer_norm_eps
        self.input_proj = nn.Linear(config.hidden_size, size)
        self.layers = nn.ModuleList(
            PerformerLayer(
                size,
                config.decoder_num_heads,
                config.decoder_head_size,
                config.decoder_intermediate_size,
                layer_norm_eps=eps,
                dropout=config.decoder_dropout_prob,
                num_random_features=config.num_random_features,
                kernel_epsilon=config.kernel_epsilon,
                qkv_bias=True,
                key_maximum="batch" if config.key_maximum == "batch" else "cell",
            )
            for _ in range(config.decoder_num_layers)
        )
        self.norm, self.final_norm = (nn.LayerNorm(size, eps=eps) for _ in range(2))
        self.out_proj = nn.Linear(size, 1)

    def place(
        self,
        encoder: ScFoundationModel,
        states: Tensor,
        input_ids: Tensor,
        real: Tensor,
        masked_genes: Tensor | None,
    ) -> Tensor:
        """Put the encoder's states where their genes are, among those that it did not see.

        Parameters
        ----------
        encoder
            Whose embeddings the other genes get: that of a value of 0, or that of a masked one.
        states
            Of the encoder, (n_cells, n_tokens, hidden_size).
        input_ids, real
            Genes and depths, and which of them the encoder saw, (n_cells, n_tokens).
        masked_genes
            Bool, (n_cells, num_genes); None: no gene is masked.

        Returns
        -------
        (n_cells, num_genes + 2, decoder_hidden_size).
        """
        # The layer is linear: what all cells share passes through it once.
        n = self.config.source_depth_token_id + 1
        genes, values = encoder.gene_embedding.weight[:n], encoder.value_embedding
        zeros = values(genes.new_zeros(n))
        placed = self.input_proj(zeros + genes).expand(len(states), -1, -1)
        if masked_genes is not None:
            masked = nn.functional.pad(masked_genes.bool(), (0, n - self.config.num_genes))
            placed = torch.where(masked.unsqueeze(-1), self.input_proj(values.mask + genes), placed)
        given = self.input_proj(states + encoder.gene_embedding(input_ids))
        # What is no gene of the decoder goes into a row of its own, which is cut off.
        rows = torch.where(real, input_ids, n).clamp(max=n).unsqueeze(-1).expand_as(given)
        placed = torch.cat([placed, placed[:, :1]], 1).to(given.dtype)
        return placed.scatter(1, rows, given)[:, :n]

    def run(
        self, states: Tensor, *, keep_all: bool = False, keep_attentions: bool = False
    ) -> tuple[Tensor, dict[int, Tensor], tuple[Tensor, ...]]:
        """States after both norms, the states by layer, and attention probabilities; shapes as of :meth:`place`."""
        states, kept, attentions = run_performer_layers(
            cast("Iterable[PerformerLayer]", self.layers),
            states,
            None,
            keep=set(range(len(self.layers) + 1)) if keep_all else set(),
            keep_attentions=keep_attentions,
            attentions_after_residual=self.config.attentions_after_residual,
        )
        return self.final_norm(self.norm(states)), kept, attentions

    def predict(self, states: Tensor) -> Tensor:
        """Expression, (n_cells, n_positions), from states after both norms."""
        return self.out_proj(states).squeeze(-1)


class ScFoundationForExpressionPrediction(ScFoundationPreTrainedModel):
    """Encoder and decoder: states and expression of all genes, masked ones among them; the pretraining task."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__(config)
        self.scfoundation = ScFoundationModel(config)
        self.decoder = GeneDecoder(config)
        self._redraws = ProjectionSchedule(config.feature_redraw_interval)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        masked_genes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_gene_embeddings: bool = False,
        output_decoder_states: bool = False,
        output_decoder_attentions: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScFoundationExpressionOutput:
        """Predict the expression of all genes.

        Parameters
        ----------
        input_ids, values, attention_mask, output_attentions, output_hidden_states
            As of :class:`ScFoundationModel`.
        masked_genes
            1 where a gene is hidden: the encoder does not see it, the decoder sees a mask, (n_cells, num_genes).
        inputs_embeds
            Gene embeddings beside ``input_ids``, which still say where the decoder has each gene.
        labels
            Log-normalised expression, float, (n_cells, num_genes); -100 where nothing is to be predicted.
        output_gene_embeddings, output_decoder_states, output_decoder_attentions
            Return what the decoder makes of each gene. Attention is quadratic in the genes: 11 GB a layer and cell with
            all genes.

        Raises
        ------
        ValueError
            If ``input_ids`` or values are missing.
        """
        if input_ids is None:
            raise ValueError("The decoder must know the genes: give input_ids, beside inputs_embeds too.")
        self._redraws.step(self)
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if masked_genes is not None:
            # Ids behind the genes are never masked.
            hidden = nn.functional.pad(masked_genes.bool(), (0, self.config.vocab_size - self.config.num_genes))
            real = real & ~hidden.gather(1, input_ids)
            attention_mask = real.long()
        encoded = self.scfoundation(
            input_ids,
            values,
            attention_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        placed = self.decoder.place(self.scfoundation, encoded.last_hidden_state, input_ids, real, masked_genes)
        states, kept, attentions = self.decoder.run(
            placed, keep_all=output_decoder_states, keep_attentions=output_decoder_attentions
        )
        n_genes = self.config.num_genes
        predicted = self.decoder.predict(states)[:, :n_genes]
        loss = None
        if labels is not None:
            loss = masked_mse(predicted.float(), labels.float(), labels != -100)
        return ScFoundationExpressionOutput(
            loss=loss,
            predicted_values=predicted,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            gene_embeddings=states[:, :n_genes] if output_gene_embeddings else None,
            decoder_hidden_states=tuple(kept[number] for number in sorted(kept)) if output_decoder_states else None,
            decoder_attentions=attentions if output_decoder_attentions else None,
        )
