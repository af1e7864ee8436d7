"""Nicheformer: transformers' BERT layers over ranked genes with context tokens, and the head that names masked genes.

Order of the data: token ids -> embedding and position -> BertLayer x L -> pooling (cell embedding) -> head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.nicheformer.configuration_nicheformer import NicheformerConfig
from scfm_hf.models.outputs import CellMaskedLMOutput, CellModelOutput
from scfm_hf.nn.bert_layers import run_bert_layers
from scfm_hf.nn.pooling import masked_mean
from scfm_hf.nn.positions import sinusoids

#: Positions that the original takes for context tokens: species, assay and modality.
N_CONTEXT = 3


class NicheformerEmbeddings(nn.Module):
    """Embedding of tokens plus that of their positions."""

    def __init__(self, config: NicheformerConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.pad_token_id = config.pad_token_id
        self.size = (config.max_position_embeddings, config.hidden_size)
        if config.position_type == "learned":
            self.position_embeddings: nn.Embedding | None = nn.Embedding(*self.size)
        else:
            self.position_embeddings = None
            self.sinusoids = nn.Buffer(sinusoids(*self.size), persistent=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def initial_tensors(self) -> dict[str, Tensor]:
        """The computed positions, where they are not learned."""
        return {} if self.position_embeddings is not None else {"sinusoids": sinusoids(*self.size)}

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size)."""
        genes = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        n_tokens = genes.shape[1]
        if self.position_embeddings is None:
            return genes + self.sinusoids[:n_tokens].to(genes.dtype)
        return self.dropout(genes + self.position_embeddings(torch.arange(n_tokens, device=genes.device)))


class NicheformerPreTrainedModel(CellPreTrainedModel):
    """Base of the Nicheformer models."""

    config_class = NicheformerConfig
    config: NicheformerConfig
    base_model_prefix = "nicheformer"
    _no_split_modules = ["NicheformerEmbeddings", "BertLayer"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\."]  # noqa: RUF012


class NicheformerModel(NicheformerPreTrainedModel):
    """The encoder."""

    def __init__(self, config: NicheformerConfig) -> None:
        super().__init__(config)
        self.embeddings = NicheformerEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the tokens."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the tokens."""
        self.embeddings.word_embeddings = value

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
            Species, assay and modality, then genes, highest scaled expression first, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        inputs_embeds
            Token embeddings in place of ``input_ids``, (n_cells, n_tokens, hidden_size).
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
        n_layers = self.config.num_hidden_layers
        wanted = self.config.embedding_layer % (n_layers + 1)

        input_ids, attention_mask, inputs_embeds = self.pad_to_context(input_ids, attention_mask, inputs_embeds)
        hidden = self.embeddings(input_ids, inputs_embeds)
        with self.eager_while(output_attentions):
            hidden, kept, attentions = run_bert_layers(
                self.encoder,
                self.config,
                hidden,
                attention_mask,
                keep=set(range(n_layers + 1)) if keep_all else {wanted},
                keep_attentions=output_attentions,
            )
        embedding = self.pool(kept[wanted], input_ids, attention_mask, with_context=self.config.pool_context)
        return CellModelOutput(
            last_hidden_state=first_tokens(hidden, n_tokens, 1),
            cell_embedding=embedding,
            hidden_states=tuple(first_tokens(kept[i], n_tokens, 1) for i in sorted(kept)) if keep_all else None,
            attentions=tuple(first_tokens(one, n_tokens, -2, -1) for one in attentions) if output_attentions else None,
        )

    def pad_to_context(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The same inputs at the full context, if ``config.pooling`` is ``padded_mean``; else as they are."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        missing = self.config.max_position_embeddings - given.shape[1]
        if self.config.pooling != "padded_mean" or missing == 0:
            return input_ids, attention_mask, inputs_embeds
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        padding = torch.full((len(given), missing), self.config.pad_token_id or 0, device=given.device)
        if inputs_embeds is None:
            input_ids = torch.cat([given, padding], 1)
        else:
            inputs_embeds = torch.cat([given, self.embeddings.word_embeddings(padding)], 1)
        return input_ids, nn.functional.pad(attention_mask, (0, missing)), inputs_embeds

    def pool(
        self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, *, with_context: bool
    ) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size)."""
        if self.config.pooling == "padded_mean":
            return states[:, 0 if with_context else N_CONTEXT :].mean(1)
        mask = torch.ones(states.shape[:2], device=states.device) if attention_mask is None else attention_mask
        if input_ids is not None and not with_context:
            mask = mask.bool() & (input_ids >= self.config.num_special_tokens)
        return masked_mean(states, mask)


def first_tokens(values: Tensor, n_tokens: int, *axes: int) -> Tensor:
    """Values without what padding to the full context added; the same tensor where nothing was."""
    for axis in axes:
        values = values if values.shape[axis] == n_tokens else values.narrow(axis, 0, n_tokens)
    return values


class NicheformerForMaskedLM(NicheformerPreTrainedModel):
    """Predicts which token stands at a masked position: the pretraining task."""

    def __init__(self, config: NicheformerConfig) -> None:
        super().__init__(config)
        self.nicheformer = NicheformerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Head that scores the tokens; it is not tied to their embedding."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellMaskedLMOutput:
        """Predict tokens; ``labels`` are ids, int64, (n_cells, n_tokens), -100 where nothing is to be predicted."""
        encoded = self.nicheformer(
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return CellMaskedLMOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
