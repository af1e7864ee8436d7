"""scGPT-spatial's encoder, and its cell classifier.

Order of the data: gene embedding + value encoding -> TransformerLayer x L -> pooling, as in scGPT. Where a cell lies is
no input of the encoder: it enters the neighbour objective alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.scgpt_spatial.configuration_scgpt_spatial import ScGPTSpatialConfig
from scfm_hf.nn.classifiers import DeepClassifier
from scfm_hf.nn.pooling import pool_tokens, unit_length
from scfm_hf.nn.transformer import TransformerLayer, run_transformer_layers
from scfm_hf.nn.value_encoders import ContinuousValueEncoder, NormedEmbedding


class ScGPTSpatialPreTrainedModel(CellPreTrainedModel):
    """Base of the scGPT-spatial models."""

    config_class = ScGPTSpatialConfig
    config: ScGPTSpatialConfig
    base_model_prefix = "scgpt_spatial"
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012
    _never_quantised = ("value_encoder",)
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [  # noqa: RUF012
        r"^(decoder|cell_decoder|neighbour_decoder|classifier|discriminator|batch_encoder)\."
    ]


class ScGPTSpatialModel(ScGPTSpatialPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScGPTSpatialConfig) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.layer_norm_eps
        self.gene_encoder = NormedEmbedding(
            config.vocab_size, size, layer_norm_eps=eps, padding_idx=config.pad_token_id
        )
        self.value_encoder = ContinuousValueEncoder(
            size, dropout=config.hidden_dropout_prob, layer_norm_eps=eps, max_value=config.max_value
        )
        self.flag_embedding = nn.Embedding(2, size) if config.generative else None
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes, before its layer norm."""
        return self.gene_encoder.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.gene_encoder.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generated_ids: Tensor | None = None,
        cell_prompt: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes, int64, (n_cells, n_tokens).
        values
            Bins of their expression relative to slide and gene, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        generated_ids
            Genes whose values are to be generated, int64, (n_cells, n_generated). They see the given genes and
            themselves; nothing sees them. Their states stand behind those of the given genes.
        cell_prompt
            Cell embedding that takes the place of the first token's input, (n_cells, hidden_size).
        inputs_embeds
            Gene embeddings, after their layer norm, in place of ``input_ids``.
        output_attentions, output_hidden_states
            Return attention probabilities (this call then runs with eager attention) and the states of all layers.

        Raises
        ------
        ValueError
            If values are missing, or not exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if values is None:
            raise ValueError("scGPT-spatial needs the values of the genes: pass values=, as the tokenizer gives them.")
        config = self.config
        asked = config.output_attentions if output_attentions is None else output_attentions
        keep_all = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        genes = self.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds
        states = genes + self.value_encoder(values)
        if cell_prompt is not None:
            states = torch.cat([cell_prompt[:, None].to(states.dtype), states[:, 1:]], 1)
        n_given, all_layers = states.shape[1], set(range(config.num_hidden_layers + 1))
        if generated_ids is not None:
            states = torch.cat([states, self._to_be_generated(generated_ids)], 1)
        wanted = config.embedding_layer % len(all_layers)
        # The mask of generated genes is one that no flash kernel takes.
        any_mask = generated_ids is not None and config._attn_implementation not in ("eager", "sdpa")
        with self.eager_while(asked or any_mask):
            last, kept, attentions = run_transformer_layers(
                self.layers,
                states,
                attention_mask,
                config=config,
                keep=all_layers if keep_all else {wanted},
                n_given=n_given,
                keep_attentions=asked,
            )
        embedding = self.pool(kept[wanted][:, :n_given], values, attention_mask)
        return CellModelOutput(
            last_hidden_state=last,
            cell_embedding=unit_length(embedding) if config.normalize_embedding else embedding,
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=attentions if asked else None,
        )

    def _to_be_generated(self, ids: Tensor) -> Tensor:
        if self.flag_embedding is None:
            raise ValueError("This model was not trained to generate: its configuration has generative=False.")
        return self.gene_encoder(ids) + self.flag_embedding.weight[1]

    def pool(self, states: Tensor, values: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, not scaled, as the heads see it, (n_cells, hidden_size)."""
        pooling, padding = self.config.pooling, self.config.pool_padding
        return pool_tokens(states, values, attention_mask, pooling=pooling, padding=padding)


class ScGPTSpatialForSequenceClassification(ScGPTSpatialPreTrainedModel):
    """Labels cells and spots, from the cell embedding."""

    _keys_to_ignore_on_load_unexpected: Any = [  # noqa: RUF012
        r"^(decoder|cell_decoder|neighbour_decoder|discriminator|batch_encoder)\."
    ]

    def __init__(self, config: ScGPTSpatialConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scgpt_spatial = ScGPTSpatialModel(config)
        self.classifier = DeepClassifier(config.hidden_size, config.num_labels, n_layers=config.classifier_layers)
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
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.scgpt_spatial(
            input_ids,
            values,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.scgpt_spatial.pool(encoded.last_hidden_state, values, attention_mask))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
