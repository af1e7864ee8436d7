"""Geneformer: transformers' own BERT blocks over ranked genes, and the heads of the original.

Order of the data: token ids -> BertEmbeddings -> BertLayer x L -> pooling (cell embedding) -> head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertLMPredictionHead, BertOnlyMLMHead
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.geneformer.configuration_geneformer import GeneformerConfig
from scfm_hf.models.outputs import CellClassifierOutput, CellMaskedLMOutput, CellModelOutput
from scfm_hf.nn.bert_layers import run_bert_layers
from scfm_hf.nn.classifiers import FirstTokenClassifier
from scfm_hf.nn.pooling import masked_mean, without_specials


class GeneformerPreTrainedModel(CellPreTrainedModel):
    """Base of the Geneformer models."""

    config_class = GeneformerConfig
    config: GeneformerConfig
    base_model_prefix = "bert"
    _no_split_modules = ["BertEmbeddings", "BertLayer"]  # noqa: RUF012
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"^classifier\."]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertEmbeddings):
            positions = torch.arange(self.config.max_position_embeddings).expand((1, -1))
            self.fill(module, position_ids=positions, token_type_ids=torch.zeros_like(positions))
        elif isinstance(module, BertLMPredictionHead):
            self.fill(module, bias=torch.zeros(self.config.vocab_size))


class GeneformerModel(GeneformerPreTrainedModel):
    """The encoder."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes, highest scaled expression first, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        token_type_ids, position_ids
            int64, (n_cells, n_tokens); zeros and 0, 1, 2 ... if not given.
        inputs_embeds
            Gene embeddings in place of ``input_ids``, (n_cells, n_tokens, hidden_size).
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
        n_tokens = given.shape[1]
        if n_tokens > self.config.max_position_embeddings:
            raise ValueError(
                f"The cells have {n_tokens} tokens, the model's context is {self.config.max_position_embeddings}. "
                "Tokenise with max_length= of at most that."
            )
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted = self.config.embedding_layer % (self.config.num_hidden_layers + 1)

        hidden = self.embeddings(
            input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids, inputs_embeds=inputs_embeds
        )
        keep = set(range(self.config.num_hidden_layers + 1)) if keep_all else {wanted}
        with self.eager_while(output_attentions):
            hidden, kept, attentions = run_bert_layers(
                self.encoder, self.config, hidden, attention_mask, keep=keep, keep_attentions=output_attentions
            )
        return CellModelOutput(
            last_hidden_state=hidden,
            cell_embedding=self.pool(kept[wanted], input_ids, attention_mask),
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=attentions if output_attentions else None,
        )

    def pool(self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        mask = torch.ones(states.shape[:2], device=states.device) if attention_mask is None else attention_mask
        if input_ids is not None:
            mask = without_specials(mask, input_ids, self.config.special_token_ids)
        return masked_mean(states, mask)


class GeneformerForMaskedLM(GeneformerPreTrainedModel):
    """Predicts which gene stands at a masked position: the pretraining task."""

    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Decoder, whose weight is that of the gene embedding."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellMaskedLMOutput:
        """Predict genes; ``labels`` are gene ids, int64, (n_cells, n_tokens), -100 where nothing is to be predicted."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return CellMaskedLMOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


class GeneformerForSequenceClassification(GeneformerPreTrainedModel):
    """Labels cells, from the first token: ``<cls>`` in V2, the top gene in V1."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneformerModel(config)
        self.classifier = FirstTokenClassifier(
            config.hidden_size, config.num_labels, dropout=_classifier_dropout(config)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state)
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


class GeneformerForTokenClassification(GeneformerPreTrainedModel):
    """Labels genes in their cells."""

    def __init__(self, config: GeneformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneformerModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label genes; ``labels`` are class numbers, int64, (n_cells, n_tokens), -100 for genes without a label."""
        encoded = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


def _classifier_dropout(config: GeneformerConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
