"""scGPT's encoder, and its cell classifier.

Order of the data: gene embedding + value encoding (+ flag) -> batch norm, if any -> TransformerLayer x L -> pooling.
Genes have no order: there is no position embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.nn.batch_norm import TokenBatchNorm
from scfm_hf.nn.classifiers import DeepClassifier
from scfm_hf.nn.pooling import pool_tokens, unit_length
from scfm_hf.nn.transformer import TransformerLayer, run_transformer_layers
from scfm_hf.nn.value_encoders import ContinuousValueEncoder, NormedEmbedding


class ScGPTPreTrainedModel(CellPreTrainedModel):
    """Base of the scGPT models."""

    config_class = ScGPTConfig
    config: ScGPTConfig
    base_model_prefix = "scgpt"
    _no_split_modules = ["TransformerLayer"]  # noqa: RUF012
    _never_quantised = ("value_encoder",)
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [  # noqa: RUF012
        r"^(decoder|mvc_decoder|classifier|discriminator|batch_encoder|modality_encoder)\."
    ]


class ScGPTModel(ScGPTPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.layer_norm_eps
        self.gene_encoder = NormedEmbedding(
            config.vocab_size, size, layer_norm_eps=eps, padding_idx=config.pad_token_id
        )
        if config.value_style == "continuous":
            self.value_encoder: nn.Module | None = ContinuousValueEncoder(
                size, dropout=config.hidden_dropout_prob, layer_norm_eps=eps, max_value=config.max_value
            )
        elif config.value_style == "category":
            self.value_encoder = NormedEmbedding(config.num_bins + 2, size, layer_norm_eps=eps)
        else:
            self.value_encoder = None
        self.flag_embedding = nn.Embedding(2, size) if config.generative else None
        flags = config.num_perturbation_flags
        self.perturbation_embedding = nn.Embedding(flags, size) if flags else None
        domains = 1 if config.plain_batch_norm else config.num_domains
        self.batch_norm = (
            TokenBatchNorm(
                size,
                n_domains=domains,
                affine=config.plain_batch_norm,
                first_cell_decides=config.domain_of_first_cell,
                counts_padding=config.batch_norm_counts_padding,
            )
            if domains
            else None
        )
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
        batch_index: Tensor | None = None,
        perturbation_flags: Tensor | None = None,
        generated_ids: Tensor | None = None,
        generated_mask: Tensor | None = None,
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
            Their values, (n_cells, n_tokens): bins for most models.
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        batch_index
            Domain of each cell, int64, (n_cells,); for models with domain-specific batch norm.
        perturbation_flags
            1 where a gene is perturbed, int64, (n_cells, n_tokens); for models with a perturbation embedding.
        generated_ids, generated_mask
            Genes whose values are to be generated, int64, (n_cells, n_generated), and their mask. They see the given
            genes and themselves; nothing sees them. Their states stand behind those of the given genes.
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
        if values is None and cell_prompt is None:
            raise ValueError(
                "scGPT needs the values of the genes: pass values= beside input_ids, as the tokenizer gives them."
            )
        asked = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states

        genes = self.gene_encoder(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.embed(genes, values, perturbation_flags)
        if self.batch_norm is not None:
            states = self.batch_norm(states, attention_mask, batch_index)
        if cell_prompt is not None:
            states = torch.cat([cell_prompt[:, None].to(states.dtype), states[:, 1:]], 1)
        n_given = states.shape[1]
        if generated_ids is not None:
            states = torch.cat([states, self.embed_generated(generated_ids)], 1)
        # The mask of generated genes is one that no flash kernel takes.
        with self.eager_while(asked or (generated_ids is not None and not self._takes_any_mask)):
            n_layers = self.config.num_hidden_layers
            wanted = self.config.embedding_layer % (n_layers + 1)
            last, kept, attentions = run_transformer_layers(
                self.layers,
                states,
                attention_mask,
                config=self.config,
                keep=set(range(n_layers + 1)) if keep_all else {wanted},
                n_given=n_given,
                keep_attentions=asked,
            )
        embedding = self.pool(kept[wanted][:, :n_given], values, attention_mask)
        if self.config.normalize_embedding:
            embedding = unit_length(embedding)
        return CellModelOutput(
            last_hidden_state=last,
            cell_embedding=embedding,
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=attentions if asked else None,
        )

    def embed(self, genes: Tensor, values: Tensor | None, perturbation_flags: Tensor | None = None) -> Tensor:
        """Sum of gene, value and perturbation, (n_cells, n_tokens, hidden_size)."""
        if values is None:
            return genes
        if self.value_encoder is None:
            return genes * values.unsqueeze(-1).to(genes.dtype)
        states = genes + self.value_encoder(values)
        if self.perturbation_embedding is not None:
            if perturbation_flags is None:
                raise ValueError("This model needs perturbation_flags=, 1 where a gene is perturbed.")
            states = states + self.perturbation_embedding(perturbation_flags.long())
        return states

    def embed_generated(self, generated_ids: Tensor) -> Tensor:
        """Genes to be generated: no value, but a flag that says so."""
        if self.flag_embedding is None:
            raise ValueError("This model was not trained to generate: its configuration has generative=False.")
        return self.gene_encoder(generated_ids) + self.flag_embedding.weight[1]

    @property
    def _takes_any_mask(self) -> bool:
        return self.config._attn_implementation in ("eager", "sdpa")

    def pool(self, states: Tensor, values: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size); only the weighted ones have length 1."""
        pooling, padding = self.config.pooling, self.config.pool_padding
        return pool_tokens(states, values, attention_mask, pooling=pooling, padding=padding)


class ScGPTForSequenceClassification(ScGPTPreTrainedModel):
    """Labels cells, from the cell embedding."""

    _keys_to_ignore_on_load_unexpected: Any = [  # noqa: RUF012
        r"^(decoder|mvc_decoder|discriminator|batch_encoder|modality_encoder)\."
    ]

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scgpt = ScGPTModel(config)
        self.classifier = DeepClassifier(config.hidden_size, config.num_labels, n_layers=config.classifier_layers)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch_index: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.scgpt(
            input_ids,
            values,
            attention_mask,
            batch_index,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        vector = self.scgpt.pool(encoded.last_hidden_state, values, attention_mask)
        logits = self.classifier(vector)
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
