"""UCE's encoder, and its cell classifier.

Order of the data: ids -> vectors of proteins, encoded, and position -> TransformerLayer x L -> decoder of the first
token -> cell embedding of length 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.uce.configuration_uce import UceConfig
from scfm_hf.models.uce.proteins_uce import NormedPerceptron, ProteinTable, UceEmbeddings
from scfm_hf.nn.pooling import masked_mean, unit_length
from scfm_hf.nn.transformer import TransformerLayer

#: What the original adds to the attention scores of padding.
_LEGACY_BIAS = 1.0


class UcePreTrainedModel(CellPreTrainedModel):
    """Base of the UCE models."""

    config_class = UceConfig
    config: UceConfig
    base_model_prefix = "uce"
    _no_split_modules = ["UceEmbeddings", "TransformerLayer"]  # noqa: RUF012
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [r"^expression\.", r"^classifier\."]  # noqa: RUF012

    def resize_token_embeddings(self, *_: Any, **__: Any) -> None:
        """Refuse: a token of UCE is the vector of a protein, which a size alone does not give.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "A gene of UCE is the vector of its protein: add a species with its proteins by "
            "scfm_hf.models.uce.species_uce.add_species."
        )


class UceModel(UcePreTrainedModel):
    """The encoder."""

    def __init__(self, config: UceConfig) -> None:
        super().__init__(config)
        self.embeddings = UceEmbeddings(config)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_hidden_layers))
        output = config.output_dim
        self.decoder = NormedPerceptron(
            [config.hidden_size, config.decoder_hidden_size, output, output, output],
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> ProteinTable:
        """The frozen table: ids -> vectors of proteins, which are what ``inputs_embeds`` takes."""
        return self.embeddings.table

    def set_input_embeddings(self, value: ProteinTable) -> None:
        """Replace the table."""
        self.embeddings.table = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Sentences of genes by chromosome, as the tokenizer makes them, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        inputs_embeds
            Vectors of proteins in place of ``input_ids``, of any length, (n_cells, n_tokens, token_dim).
        output_attentions
            Return attention probabilities; this call then runs with eager attention.
        output_hidden_states
            Return the states of all layers.

        Raises
        ------
        ValueError
            If not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or the cells are longer than the
            context.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if given.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"The cells have {given.shape[1]} tokens, the model's context is "
                f"{self.config.max_position_embeddings}. Tokenise with max_length= of at most that."
            )
        asked = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        n_layers = self.config.num_hidden_layers
        wanted = self.config.embedding_layer % (n_layers + 1)

        states = self.embeddings(input_ids, inputs_embeds)
        # A cell without a token has nothing to attend to: zeros, whatever the attention implementation makes of it.
        alive = None
        if attention_mask is not None:
            alive = attention_mask.bool().any(1)[:, None, None].to(states.dtype)
            states = states * alive
        kept = {0: states} if keep_all or wanted == 0 else {}
        attentions: list[Tensor] = []
        with self.eager_while(asked or (self.config.padding_bias == "legacy" and not self._takes_any_mask)):
            mask = self._attention_mask(states, attention_mask)
            for number, layer in enumerate(self.layers, start=1):
                states, probabilities = layer(states, mask)
                states = states if alive is None else states * alive
                if keep_all or number == wanted:
                    kept[number] = states
                if asked and probabilities is not None:
                    attentions.append(probabilities)
        return CellModelOutput(
            last_hidden_state=states,
            cell_embedding=self.pool(kept[wanted], attention_mask),
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=tuple(attentions) if asked else None,
        )

    @property
    def _takes_any_mask(self) -> bool:
        return self.config._attn_implementation in ("eager", "sdpa")

    def _attention_mask(self, states: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        if self.config.padding_bias == "legacy" and attention_mask is not None:
            bias = (1 - attention_mask.to(states.dtype)) * _LEGACY_BIAS
            return bias[:, None, None, :].expand(-1, 1, states.shape[1], -1)
        return create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)

    def decode(self, states: Tensor) -> Tensor:
        """States of tokens in the space of the cell embedding, not scaled to length 1, (..., output_dim).

        That of a gene's token is the nearest that UCE has to an embedding of the gene in its cell.
        """
        return self.decoder(states)

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``; zeros for a cell without a token."""
        if self.config.pooling == "cls":
            vectors = unit_length(self.decode(states[:, 0]))
            return vectors if attention_mask is None else vectors * attention_mask.bool().any(1, keepdim=True)
        mask = torch.ones(states.shape[:2], device=states.device) if attention_mask is None else attention_mask
        return masked_mean(states, mask)


class UceForSequenceClassification(UcePreTrainedModel):
    """Labels cells by a linear layer on the decoded first token, before it is scaled to length 1."""

    def __init__(self, config: UceConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.uce = UceModel(config)
        self.classifier = nn.Linear(config.output_dim, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.uce(
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.classifier(self.uce.decode(encoded.last_hidden_state[:, 0]))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
