"""tGPT: transformers' own GPT-2 blocks over ranked genes.

Order of the data: token ids -> gene, position and padding embedding -> GPT2Block x L -> layer norm -> pooling (cell
embedding) -> next gene, or class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.tgpt.configuration_tgpt import TGPTConfig
from scfm_hf.nn.pooling import masked_mean

logger = logging.get_logger(__name__)


@dataclass
class TGPTCausalLMOutput(ModelOutput):
    """Output of the head that predicts the next gene.

    Parameters
    ----------
    loss
        Mean cross entropy of each token given those before it, labels -100 ignored, scalar; only with ``labels``.
    logits
        Scores of the vocabulary for the next token, float, (n_cells, n_tokens, vocab_size).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class TGPTPreTrainedModel(CellPreTrainedModel):
    """Base of the tGPT models."""

    config_class = TGPTConfig
    config: TGPTConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GPT2Block"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\."]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        spread = self.config.initializer_range
        if isinstance(module, Conv1D):
            init.normal_(module.weight, std=spread)
            init.zeros_(module.bias)
        elif isinstance(module, GPT2Attention | GPT2MLP):
            # What is added to the residual stream starts smaller the more layers add to it (Radford et al. 2019).
            init.normal_(module.c_proj.weight, std=spread / math.sqrt(2 * self.config.num_hidden_layers))


class TGPTModel(TGPTPreTrainedModel):
    """The stack of blocks."""

    def __init__(self, config: TGPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.hidden_dropout_prob)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx=number) for number in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.wte = value

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
            Start token, genes from the highest count down, end token, int64, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        token_type_ids
            Tokens whose embedding is added, int64, (n_cells, n_tokens); None: those of padding, or none at all, as
            ``config.add_pad_embedding`` says.
        position_ids
            int64, (n_cells, n_tokens); 0, 1, 2 ... if not given.
        inputs_embeds
            Gene embeddings in place of ``input_ids``, (n_cells, n_tokens, hidden_size).
        output_attentions
            Return attention probabilities; this call then runs with eager attention.
        output_hidden_states
            Return the embeddings, and the states after each block; the last ones have passed the final layer norm.

        Raises
        ------
        ValueError
            If not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or the cells are longer than the
            context.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        n_layers = self.config.num_hidden_layers
        wanted = self.config.embedding_layer % (n_layers + 1)

        genes = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self._embed(genes, token_type_ids, position_ids)
        with self.eager_while(output_attentions):
            hidden, kept, attentions = self._run(hidden, attention_mask, wanted, keep_all, output_attentions)
        return CellModelOutput(
            last_hidden_state=hidden,
            cell_embedding=self.pool(kept[wanted], attention_mask),
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=attentions if output_attentions else None,
        )

    def _run(
        self, hidden: Tensor, attention_mask: Tensor | None, wanted: int, keep_all: bool, keep_attentions: bool
    ) -> tuple[Tensor, dict[int, Tensor], tuple[Tensor, ...]]:
        """Last states, states by number (0 are the embeddings), and attention probabilities of each block.

        A cell without a token has nothing to attend to: it gets zeros, whatever attention makes of it.
        """
        alive = None if attention_mask is None else attention_mask.bool().any(1)[:, None, None].to(hidden.dtype)
        hidden = hidden if alive is None else hidden * alive
        kept, attentions = {0: hidden}, []
        mask = create_causal_mask(self.config, hidden, attention_mask, None)
        for number, block in enumerate(self.h, start=1):
            if keep_attentions:
                hidden, probabilities = _run_block(block, hidden, mask)
                attentions.append(probabilities)
            else:
                hidden = block(hidden, attention_mask=mask)
            hidden = self.ln_f(hidden) if number == len(self.h) else hidden
            hidden = hidden if alive is None else hidden * alive
            if keep_all or number == wanted:
                kept[number] = hidden
        if attentions and alive is not None and not alive.all():
            attentions = [probabilities * alive[..., None] for probabilities in attentions]
        return hidden, kept, tuple(attentions)

    def _embed(self, genes: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """Embeddings of genes, positions and token types, (n_cells, n_tokens, hidden_size)."""
        n_tokens = genes.shape[1]
        if n_tokens > self.config.max_position_embeddings:
            raise ValueError(
                f"The cells have {n_tokens} tokens, the model's context is {self.config.max_position_embeddings}. "
                "Tokenise with max_length= of at most that."
            )
        if n_tokens > self.config.trained_length:
            logger.warning_once(
                f"The cells have {n_tokens} tokens; the model was trained on {self.config.trained_length}, and later "
                "positions are as they were drawn at random."
            )
        if position_ids is None:
            position_ids = torch.arange(n_tokens, device=genes.device)[None]
        embedded = genes + self.wpe(position_ids)
        if token_type_ids is not None:
            embedded = embedded + self.wte(token_type_ids)
        elif self.config.add_pad_embedding:
            embedded = embedded + self.wte.weight[self.config.pad_token_id]
        return self.drop(embedded)

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size); zeros for a cell without a gene."""
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        real = attention_mask.long()
        # Number of real tokens up to each, counted from either end.
        from_start, from_end = real.cumsum(1), real.flip(1).cumsum(1).flip(1)
        if self.config.pooling == "last":
            return masked_mean(states, (real == 1) & (from_end == 1))
        return masked_mean(states, (real == 1) & (from_start > 1) & (from_end > 1))


class TGPTForCausalLM(TGPTPreTrainedModel, GenerationMixin):
    """Predicts the next gene: the pretraining task. ``generate`` continues a cell without a cache."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

    def __init__(self, config: TGPTConfig) -> None:
        super().__init__(config)
        self.transformer = TGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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
    ) -> TGPTCausalLMOutput:
        """Predict the next gene.

        ``labels`` are the tokens themselves, int64, (n_cells, n_tokens), -100 where nothing is to be predicted, such as
        at padding; they are shifted here. The loss is a mean over tokens, so longer cells weigh more.
        """
        encoded = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return TGPTCausalLMOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **further: Any
    ) -> dict[str, Any]:
        """Inputs of the next step: the whole cell so far; padding on the left takes no position."""
        del further
        if attention_mask is None:
            return {"input_ids": input_ids}
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": positions}


class TGPTForSequenceClassification(TGPTPreTrainedModel):
    """Labels cells, by a linear layer on the cell embedding; the authors released no classifier."""

    def __init__(self, config: TGPTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = TGPTModel(config)
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
        """Label cells; ``labels`` are class numbers, int64, (n_cells,)."""
        encoded = self.transformer(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.transformer.pool(encoded.last_hidden_state, attention_mask))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


def _run_block(block: GPT2Block, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """A block that also gives its attention probabilities."""
    attended, probabilities = block.attn(block.ln_1(hidden), attention_mask=mask)
    hidden = hidden + attended
    return hidden + block.mlp(block.ln_2(hidden)), probabilities
