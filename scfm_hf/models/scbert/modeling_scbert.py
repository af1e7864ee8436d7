"""scBERT: Performer layers over all genes, and the head that predicts masked values.

Order of the data: genes and their binned values -> sum of the two embeddings -> PerformerLayer x L -> layer norm ->
pooling (cell embedding) -> value of each gene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellMaskedLMOutput, CellModelOutput
from scfm_hf.models.scbert.configuration_scbert import ScBertConfig
from scfm_hf.nn.performer import PerformerLayer, ProjectionSchedule, run_performer_layers
from scfm_hf.nn.pooling import masked_mean


class ScBertEmbeddings(nn.Module):
    """Embedding of a gene plus that of its value."""

    def __init__(self, config: ScBertConfig) -> None:
        super().__init__()
        self.gene_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.value_embeddings = nn.Embedding(config.num_values, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.is_frozen = config.freeze_gene_embeddings
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; frozen embeddings become so again, for loading makes every parameter trainable."""
        if self.is_frozen:
            self.gene_embeddings.weight.requires_grad_(False)
        return super().train(mode)

    def forward(self, input_ids: Tensor | None, values: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size)."""
        genes = self.gene_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return self.dropout(genes + self.value_embeddings(values.long()))


class ScBertPreTrainedModel(CellPreTrainedModel):
    """Base of the scBERT models."""

    config_class = ScBertConfig
    config: ScBertConfig
    base_model_prefix = "scbert"
    # Attention is by random features, which no other implementation has.
    _supports_sdpa = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _no_split_modules = ["ScBertEmbeddings", "PerformerLayer"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^value_head\.", r"^classifier\."]  # noqa: RUF012


class ScBertModel(ScBertPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScBertConfig) -> None:
        super().__init__(config)
        self.embeddings = ScBertEmbeddings(config)
        self.layers = nn.ModuleList(
            PerformerLayer(
                config.hidden_size,
                config.num_attention_heads,
                config.head_dim,
                config.intermediate_size,
                layer_norm_eps=config.layer_norm_eps,
                dropout=config.hidden_dropout_prob,
                num_random_features=config.num_random_features,
                kernel_epsilon=config.kernel_epsilon,
                key_maximum="batch" if config.key_maximum == "batch" else "cell",
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.schedule = ProjectionSchedule(config.feature_redraw_interval)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.embeddings.gene_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.embeddings.gene_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            The genes, in any order, and the token behind them, int64, (n_cells, n_tokens).
        values
            Bin of each gene's expression, ``config.mask_value`` where it is hidden, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        inputs_embeds
            Gene embeddings in place of ``input_ids``, (n_cells, n_tokens, hidden_size).
        output_attentions
            Return attention probabilities, whose memory is quadratic in the genes; :meth:`received_attention` gives
            their means without.
        output_hidden_states
            Return the embeddings and the states after each layer; the last ones have passed the final layer norm.

        Raises
        ------
        ValueError
            If not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or no values are.
        """
        keep_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        n_layers = self.config.num_hidden_layers
        wanted = self.config.embedding_layer % (n_layers + 1)

        hidden = self._embed(input_ids, values, inputs_embeds)
        self.schedule.step(self)
        hidden, kept, attentions = run_performer_layers(
            cast("list[PerformerLayer]", self.layers),
            hidden,
            attention_mask,
            keep=set(range(n_layers)) if keep_all else {wanted},
            keep_attentions=keep_attentions,
            attentions_after_residual=self.config.attentions_after_residual,
        )
        kept[n_layers] = hidden = self._normed(hidden, attention_mask)
        return CellModelOutput(
            last_hidden_state=hidden,
            cell_embedding=self.pool(kept[wanted], attention_mask),
            hidden_states=tuple(kept[number] for number in range(n_layers + 1)) if keep_all else None,
            attentions=attentions if keep_attentions else None,
        )

    @torch.no_grad()
    def received_attention(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Share of the attention that each token receives, mean over layers, heads and queries.

        Cost and memory are linear in the genes. The inputs are those of :meth:`forward`.

        Returns
        -------
        Float, (n_cells, n_tokens); sums to 1 a cell, 0 for one without a token.
        """
        hidden = self._embed(input_ids, values, inputs_embeds)
        total = torch.zeros(hidden.shape[:2], device=hidden.device)
        for layer in cast("list[PerformerLayer]", self.layers):
            attended = layer.attend(hidden, attention_mask)
            looked_at = layer.norm1(attended if self.config.attentions_after_residual else hidden)
            total = total + layer.self_attn.received(looked_at, attention_mask).mean(1)
            hidden = layer.feed_forward(attended)
        return total / total.sum(1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size); zeros for a cell without a gene."""
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        real = attention_mask.long()
        is_last = (real == 1) & (real.flip(1).cumsum(1).flip(1) == 1)
        return masked_mean(states, is_last if self.config.pooling == "last" else (real == 1) & ~is_last)

    def _embed(self, input_ids: Tensor | None, values: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """First states, (n_cells, n_tokens, hidden_size)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if values is None:
            raise ValueError("scBERT needs the bins of the genes: give values=, as the tokenizer makes them.")
        return self.embeddings(input_ids, values, inputs_embeds)

    def _normed(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The final norm; a cell without a token keeps its zeros."""
        normed = self.norm(states)
        if attention_mask is None:
            return normed
        return normed * attention_mask.bool().any(1)[:, None, None].to(normed.dtype)


@dataclass
class ScBertMaskedLMOutput(CellMaskedLMOutput):
    """Output of the head that predicts masked values.

    Parameters
    ----------
    loss
        Mean cross entropy over the positions whose label is not -100, scalar; only with ``labels``.
    logits
        Scores of the values, float, (n_cells, n_tokens, num_values).
    """


class ScBertForMaskedLM(ScBertPreTrainedModel):
    """Predicts the bin of each gene whose value was hidden: the pretraining task."""

    def __init__(self, config: ScBertConfig) -> None:
        super().__init__(config)
        self.scbert = ScBertModel(config)
        self.value_head = nn.Linear(config.hidden_size, config.num_values)
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
    ) -> ScBertMaskedLMOutput:
        """Predict values.

        ``labels`` are the true bins, int64, (n_cells, n_tokens), -100 where nothing is to be predicted. The other
        inputs are those of :meth:`ScBertModel.forward`.
        """
        encoded = self.scbert(
            input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.value_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return ScBertMaskedLMOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
