"""GeneCompass: transformers' BERT layers over genes with values and prior knowledge, and the heads of the original."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import (
    BertEncoder,
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertPredictionHeadTransform,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.genecompass.configuration_genecompass import GeneCompassConfig
from scfm_hf.models.genecompass.embeddings_genecompass import GeneCompassEmbeddings
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.nn.bert_layers import run_bert_layers
from scfm_hf.nn.classifiers import FirstTokenClassifier
from scfm_hf.nn.losses import masked_mse
from scfm_hf.nn.pooling import masked_mean


class GeneCompassPreTrainedModel(CellPreTrainedModel):
    """Base of the GeneCompass models."""

    config_class = GeneCompassConfig
    config: GeneCompassConfig
    base_model_prefix = "bert"
    _no_split_modules = ["GeneCompassEmbeddings", "BertLayer"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"^value_head\.", r"^classifier\."]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertLMPredictionHead):
            self.fill(module, bias=torch.zeros(self.config.vocab_size))


class GeneCompassModel(GeneCompassPreTrainedModel):
    """The encoder. With ``use_cls_token`` its states begin with a position that is the species, before the genes."""

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__(config)
        self.embeddings = GeneCompassEmbeddings(config)
        self.cls_embedding = nn.Embedding(2, config.hidden_size) if config.use_cls_token else None
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
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        species_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellModelOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes, highest scaled expression first, int64, (n_cells, n_tokens).
        values
            log2(1 + count / median) of each gene, -1 where masked, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        species_ids
            0 = human, 1 = mouse, (n_cells,) or (n_cells, 1); None: all human.
        inputs_embeds
            Gene embeddings, (n_cells, n_tokens, hidden_size); beside ``input_ids`` these still give prior knowledge.
        output_attentions, output_hidden_states
            Return attention probabilities (this call then runs with eager attention) and the states of all layers.

        Raises
        ------
        ValueError
            If genes or values are missing, or the cells are longer than the context.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("Give input_ids, or inputs_embeds.")
        if given.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"The cells have {given.shape[1]} tokens, the model's context is "
                f"{self.config.max_position_embeddings}. Tokenise with max_length= of at most that."
            )
        asked = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted = self.config.embedding_layer % (self.config.num_hidden_layers + 1)
        hidden = self.embeddings(input_ids, values, species_ids, inputs_embeds)
        mask = attention_mask
        if self.cls_embedding is not None:
            species = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
            species = species if species_ids is None else species_ids.reshape(-1).long()
            hidden = torch.cat([self.cls_embedding(species)[:, None], hidden], 1)
            if mask is not None:
                # A cell without a gene stays without anything to attend to.
                mask = torch.cat([mask.amax(1, keepdim=True), mask], 1)
        keep = set(range(self.config.num_hidden_layers + 1)) if keep_all else {wanted}
        with self.eager_while(asked):
            last, kept, attentions = run_bert_layers(
                self.encoder, self.config, hidden, mask, keep=keep, keep_attentions=asked
            )
        return CellModelOutput(
            last_hidden_state=last,
            cell_embedding=self.pool(kept[wanted], attention_mask),
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=attentions if asked else None,
        )

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        genes = self.of_genes(states)
        mask = torch.ones(genes.shape[:2], device=genes.device) if attention_mask is None else attention_mask
        return masked_mean(genes, mask)

    def of_genes(self, states: Tensor) -> Tensor:
        """States of the genes alone, (n_cells, n_tokens, hidden_size)."""
        return states if self.cls_embedding is None else states[:, 1:]


class ValueHead(nn.Module):
    """Value of a gene from its state."""

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, 1)

    def forward(self, states: Tensor) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> (n_cells, n_tokens)."""
        return self.decoder(self.transform(states)).squeeze(-1)


@dataclass
class GeneCompassMaskedOutput(ModelOutput):
    """Output of the masked model.

    Parameters
    ----------
    loss
        ``id_weight`` x cross entropy of the genes + ``value_weight`` x squared error of the values, scalar.
    logits
        Scores of the genes, (n_cells, n_tokens, vocab_size).
    predicted_values
        Values of the genes, (n_cells, n_tokens); only of models with values.
    losses
        ``genes`` and ``values``, before their weights.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    predicted_values: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    losses: dict[str, Tensor] | None = None


class GeneCompassForMaskedLM(GeneCompassPreTrainedModel):
    """Names masked genes and predicts their values: the pretraining task."""

    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__(config)
        self.bert = GeneCompassModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.value_head = ValueHead(config) if config.use_values else None
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
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        species_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        target_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> GeneCompassMaskedOutput:
        """Predict genes and values.

        Parameters
        ----------
        labels
            Genes to be named, int64, (n_cells, n_tokens), -100 where nothing is to be predicted.
        target_values
            Values before masking, (n_cells, n_tokens); compared where a gene is to be named. None: the loss is that of
            the genes alone.
        input_ids, values, attention_mask, species_ids, inputs_embeds, output_attentions, output_hidden_states
            As of :class:`GeneCompassModel`.
        """
        encoded = self.bert(
            input_ids,
            values,
            attention_mask,
            species_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        states = self.bert.of_genes(encoded.last_hidden_state)
        logits = self.cls(states)
        predicted = None if self.value_head is None else self.value_head(states)
        loss, losses = None, {}
        if labels is not None:
            losses["genes"] = loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
            if predicted is not None and target_values is not None:
                losses["values"] = masked_mse(predicted, target_values, labels != -100)
                loss = self.config.id_weight * losses["genes"] + self.config.value_weight * losses["values"]
        return GeneCompassMaskedOutput(
            loss,
            logits,
            predicted,
            encoded.cell_embedding,
            encoded.hidden_states,
            encoded.attentions,
            losses or None,
        )


class GeneCompassForSequenceClassification(GeneCompassPreTrainedModel):
    """Labels cells, from the first position."""

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneCompassModel(config)
        self.classifier = FirstTokenClassifier(
            config.hidden_size, config.num_labels, dropout=_classifier_dropout(config)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        species_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.bert(
            input_ids,
            values,
            attention_mask,
            species_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state)
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


class GeneCompassForTokenClassification(GeneCompassPreTrainedModel):
    """Labels genes in their cells."""

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = GeneCompassModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        species_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label genes; ``labels`` are class numbers, int64, (n_cells, n_tokens), -100 for genes without a label."""
        encoded = self.bert(
            input_ids,
            values,
            attention_mask,
            species_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(self.bert.of_genes(encoded.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


def _classifier_dropout(config: GeneCompassConfig) -> float:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
