"""CellLM's encoder, and its heads that name masked values and label cells.

Order of the data: value and gene -> embedding -> Performer layers over the expressed genes -> norm -> cls (cell
embedding) -> head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.celllm.configuration_celllm import CellLMConfig
from scfm_hf.models.outputs import CellClassifierOutput, CellMaskedLMOutput, CellModelOutput
from scfm_hf.nn.classifiers import ClassifierLayer
from scfm_hf.nn.performer import PerformerLayer, ProjectionSchedule, run_performer_layers
from scfm_hf.nn.pooling import masked_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class CellLMEmbeddings(nn.Module):
    """Embedding of the binned expression plus that of the gene."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__()
        self.values = nn.Embedding(config.num_values, config.hidden_size)
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.is_frozen = config.freeze_gene_embeddings
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; frozen embeddings become so again, for loading makes every parameter trainable."""
        if self.is_frozen:
            self.genes.weight.requires_grad_(False)
        return super().train(mode)

    def forward(self, input_ids: Tensor | None, values: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size)."""
        genes = self.genes(input_ids) if inputs_embeds is None else inputs_embeds
        return self.dropout(self.values(values.long()) + genes)


class CellLMPreTrainedModel(CellPreTrainedModel):
    """Base of the CellLM models."""

    config_class = CellLMConfig
    config: CellLMConfig
    base_model_prefix = "celllm"
    _supports_sdpa = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _no_split_modules = ["CellLMEmbeddings", "PerformerLayer"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^(value_head|tissue_head|classifier|drug_response)\."]  # noqa: RUF012


class CellLMModel(CellLMPreTrainedModel):
    """The encoder."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__(config)
        self.embeddings = CellLMEmbeddings(config)
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
                key_maximum=config.key_maximum,
                mask_keys=config.mask_keys,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projections = ProjectionSchedule(config.feature_redraw_interval)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.embeddings.genes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.embeddings.genes = value

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
            ``<cls>``, then the expressed genes, int64, (n_cells, n_tokens).
        values
            Tokens of their expression, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        inputs_embeds
            Gene embeddings in place of those of ``input_ids``, (n_cells, n_tokens, hidden_size).
        output_attentions
            Return attention probabilities: the shares among the real tokens, see ``config.attentions_as_original``.
            Their memory is quadratic in the tokens.
        output_hidden_states
            Return the states of all layers; the last is behind the norm.

        Raises
        ------
        ValueError
            If genes or values are missing, or the cells are longer than the context.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("Give the genes of the cells as input_ids= or as inputs_embeds=.")
        if values is None:
            raise ValueError("CellLM needs the expression of the genes: pass values=, as the tokenizer gives them.")
        if given.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"The cells have {given.shape[1]} tokens, the model's context is "
                f"{self.config.max_position_embeddings}. Tokenise with max_length= of at most that."
            )
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        n_layers = self.config.num_hidden_layers
        wanted = self.config.embedding_layer % (n_layers + 1)
        self.projections.step(self)

        hidden = self.embeddings(input_ids, values, inputs_embeds)
        mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        mask = mask if attention_mask is None else attention_mask.long()
        longer, longer_mask, key_counts = self.with_padding(hidden, mask)
        hidden, kept, attentions = run_performer_layers(
            cast("Iterable[PerformerLayer]", self.layers),
            longer,
            longer_mask,
            keep=set(range(n_layers)) if keep_all else {wanted} - {n_layers},
            keep_attentions=output_attentions,
            attentions_after_residual=self.config.attentions_as_original,
            key_counts=key_counts,
            n_hidden=longer.shape[1] - hidden.shape[1],
        )
        kept[n_layers] = self.norm(hidden)
        if not (output_attentions and self.config.attentions_as_original):
            kept[n_layers] = kept[n_layers] * mask[..., None].to(hidden.dtype)
        return CellModelOutput(
            last_hidden_state=kept[n_layers],
            cell_embedding=self.pool(kept[wanted], input_ids, mask),
            hidden_states=tuple(kept[i] for i in sorted(kept)) if keep_all else None,
            attentions=tuple(self._shares(one, mask) for one in attentions) if output_attentions else None,
        )

    def with_padding(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """States with one token more that stands for all of the padding, their mask, and how many keys each counts.

        All padding of a cell has the same state in every layer, so that one token serves for it: time and memory follow
        the genes that are there, not the context.
        """
        if self.config.mask_keys:
            return hidden, mask, None
        ids = torch.full((len(hidden), 1), self.config.num_genes + 1, device=hidden.device)
        padding = self.embeddings(ids, torch.full_like(ids, self.config.pad_value_id))
        n_padding = self.config.max_position_embeddings - mask.sum(1, keepdim=True)
        longer = torch.cat([hidden, padding.to(hidden.dtype)], 1)
        return longer, torch.cat([mask, torch.zeros_like(ids)], 1), torch.cat([mask, n_padding], 1)

    def pool(self, states: Tensor, input_ids: Tensor | None, mask: Tensor) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size)."""
        if self.config.pooling == "cls":
            return states[:, 0] * mask[:, :1].to(states.dtype)
        genes = mask.bool()
        if input_ids is not None:
            genes = genes & (input_ids != self.config.cls_token_id)
        else:
            genes = genes & (torch.arange(genes.shape[1], device=genes.device) > 0)
        return masked_mean(states, genes)

    def _shares(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """Attention among the tokens that the caller knows, (n_cells, n_heads, n_tokens, n_tokens)."""
        if self.config.mask_keys:
            return probabilities
        shown, padding = probabilities[..., :-1, :-1], probabilities[..., :-1, -1:]
        if self.config.attentions_as_original:
            n_padding = self.config.max_position_embeddings - mask.sum(1)[:, None, None, None]
            return torch.where(mask[:, None, None].bool(), shown, padding / n_padding.clamp(min=1))
        return shown / shown.sum(-1, keepdim=True).clamp(min=torch.finfo(shown.dtype).tiny)


class CellLMForMaskedLM(CellLMPreTrainedModel):
    """Predicts the binned expression at masked genes: one of the pretraining tasks."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__(config)
        self.celllm = CellLMModel(config)
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
    ) -> CellMaskedLMOutput:
        """Predict values, logits (n_cells, n_tokens, num_values).

        ``labels`` are tokens of expression, int64, (n_cells, n_tokens), -100 where nothing is to be predicted. The
        other inputs are those of :meth:`CellLMModel.forward`.
        """
        encoded = self.celllm(
            input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.value_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return CellMaskedLMOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


class TokenScores(nn.Module):
    """One number a token, written to a place that the token has among the genes or in the cell."""

    def __init__(self, config: CellLMConfig, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.n_genes, self.context = config.num_genes, config.max_position_embeddings
        self.linear = ClassifierLayer(config.hidden_size, 1)

    @property
    def n_places(self) -> int:
        """Length of what comes out."""
        return self.n_genes + 1 if self.layout == "scatter" else self.context

    def forward(self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> (n_cells, n_places); ``<cls>`` comes last by ``scatter``, absent genes 0.

        Raises
        ------
        ValueError
            If the genes have no ids.
        """
        scores = self.linear(states).squeeze(-1)
        if self.layout == "positional":
            # States are zero at padding, which leaves the bias.
            padding = self.linear.bias.expand(len(scores), self.context - scores.shape[1])
            return torch.cat([scores, padding.to(scores.dtype)], 1)
        if input_ids is None:
            raise ValueError("This head has a place for each gene: pass input_ids= too, beside inputs_embeds=.")
        nowhere = self.n_genes + 1
        places = input_ids.clamp(max=nowhere)
        if attention_mask is not None:
            places = places.masked_fill(attention_mask == 0, nowhere)
        return scores.new_zeros(len(scores), nowhere + 1).scatter(1, places, scores)[:, :nowhere]


class CellLMClassifier(nn.Module):
    """One number a token, then a perceptron over all places."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__()
        self.scores = TokenScores(config, config.classifier_type)
        sizes = [self.scores.n_places, *config.classifier_hidden_sizes, config.num_labels]
        self.linears = nn.ModuleList(ClassifierLayer(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.dropout = nn.Dropout(config.classifier_dropout)

    def forward(self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """(n_cells, n_tokens, hidden_size) -> (n_cells, num_labels)."""
        vectors = self.scores(states, input_ids, attention_mask).relu()
        for linear in self.linears[:-1]:
            vectors = self.dropout(linear(vectors).relu())
        return self.linears[-1](vectors)


class CellLMForSequenceClassification(CellLMPreTrainedModel):
    """Labels cells; see ``config.classifier_type`` for the two heads that were released."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.celllm = CellLMModel(config)
        self.classifier = CellLMClassifier(config)
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
        """Label cells.

        ``labels`` are class numbers, int64, (n_cells,). ``inputs_embeds`` stand beside ``input_ids`` for the head by
        genes, which must know them. The other inputs are those of :meth:`CellLMModel.forward`.
        """
        encoded = self.celllm(
            input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        logits = self.classifier(encoded.last_hidden_state, input_ids, attention_mask)
        loss = None
        if labels is not None and self.config.class_weights is not None:
            weights = logits.new_tensor(self.config.class_weights).float()
            loss = nn.functional.cross_entropy(logits.float(), labels, weights)
        elif labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


def class_weights(counts: Sequence[int]) -> list[float]:
    """Weights of the classes as release v0.1 has them: (1 - share of the class)^2, from the cells of each."""
    total = sum(counts)
    return [(1 - count / total) ** 2 for count in counts]
