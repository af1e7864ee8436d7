"""scFoundation's encoder over the expressed genes of a cell, and its cell classifier.

Order of the data: auto-discretised value + gene embedding -> TransformerLayer x L -> norm -> pooling.
The last two tokens of a cell are its read depths: the one that is asked for and the one that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig
from scfm_hf.models.scfoundation.values_scfoundation import AutoDiscretization
from scfm_hf.nn.pooling import masked_mean
from scfm_hf.nn.transformer import TransformerLayer


@dataclass
class ScFoundationOutput(CellModelOutput):
    """Output of the encoder.

    Parameters
    ----------
    last_hidden_state
        States after the norm behind the last layer, (n_cells, n_tokens, hidden_size); also the last of
        ``hidden_states``.
    encoder_output
        States after the last layer, before that norm.
    """

    encoder_output: Tensor | None = None


class ScFoundationPreTrainedModel(CellPreTrainedModel):
    """Base of the scFoundation models."""

    config_class = ScFoundationConfig
    config: ScFoundationConfig
    base_model_prefix = "scfoundation"
    _no_split_modules = ["TransformerLayer", "PerformerLayer"]  # noqa: RUF012
    _never_quantised = ("value_embedding",)
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [r"^(decoder|classifier)\."]  # noqa: RUF012


class ScFoundationModel(ScFoundationPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__(config)
        self.value_embedding = AutoDiscretization(
            config.hidden_size,
            config.num_bins,
            alpha=config.bin_alpha,
            initializer_range=config.initializer_range,
        )
        self.gene_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.gene_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.gene_embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScFoundationOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes that are expressed, then target depth and source depth, int64, (n_cells, n_tokens).
        values
            log(1 + counts per 10,000) of the genes, log10 of the depths, (n_cells, n_tokens).
        attention_mask
            1 = real token, (n_cells, n_tokens); None: all are.
        inputs_embeds
            Gene embeddings, (n_cells, n_tokens, hidden_size). Beside ``input_ids`` these still say which tokens are the
            depths; without, the last two real tokens are.
        output_attentions, output_hidden_states
            Return attention probabilities (this call then runs with eager attention) and the states of all layers.

        Raises
        ------
        ValueError
            If genes or values are missing.
        """
        if input_ids is None and inputs_embeds is None:
            raise ValueError("Give input_ids, or inputs_embeds.")
        if values is None:
            raise ValueError(
                "scFoundation needs the values of the genes: pass values= beside input_ids, as the tokenizer gives "
                "them."
            )
        asked = self.config.output_attentions if output_attentions is None else output_attentions
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted = self.config.embedding_layer % (self.config.num_hidden_layers + 1)
        last_number = self.config.num_hidden_layers
        real = torch.ones_like(values, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        genes = self.gene_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        values_embedded, seen = self._embed_values(values, real)
        alive = None if attention_mask is None else real.any(1)[:, None, None].to(genes.dtype)
        states = values_embedded + genes
        states = states if alive is None else states * alive
        kept, attentions = {0: states}, []
        with self.eager_while(asked):
            mask = None
            if attention_mask is not None or self.config.mark_by_value:
                mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=seen.long())
            for number, layer in enumerate(self.layers, start=1):
                states, probabilities = layer(states, mask)
                # A cell without a token has nothing to attend to: zeros, whatever attention makes of it.
                states = states if alive is None else states * alive
                if number < last_number and (keep_all or number == wanted):
                    kept[number] = states
                if asked and probabilities is not None:
                    attentions.append(probabilities)
        last = self.norm(states)
        last = last if alive is None else last * alive
        kept[last_number] = last
        return ScFoundationOutput(
            last_hidden_state=last,
            cell_embedding=self.pool(kept[wanted], input_ids, real),
            hidden_states=tuple(kept[number] for number in sorted(kept)) if keep_all else None,
            attentions=tuple(attentions) if asked else None,
            encoder_output=states,
        )

    def _embed_values(self, values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Value embeddings, (n_cells, n_tokens, hidden_size), and which tokens are seen, (n_cells, n_tokens)."""
        if not self.config.mark_by_value:
            return self.value_embedding(values, is_padding=~real), real
        is_mask, is_padding = values == self.config.mask_value, values == self.config.pad_value
        return self.value_embedding(values, is_mask, is_padding | ~real), real & ~is_padding

    def pool(self, states: Tensor, input_ids: Tensor | None, real: Tensor) -> Tensor:
        """One vector a cell by ``config.pooling``, (n_cells, hidden_size) or (n_cells, 4 * hidden_size).

        Parameters
        ----------
        states
            (n_cells, n_tokens, hidden_size).
        input_ids
            Say which tokens are the depths; None: the last two real ones.
        real
            Bool, (n_cells, n_tokens).
        """
        if self.config.pooling == "max":
            return masked_max(states, real)
        target, source = self._depths(input_ids, real)
        genes = real & ~target & ~source
        of_depths = [(states * one.unsqueeze(-1)).sum(1) for one in (source, target)]
        return torch.cat([*of_depths, masked_max(states, genes), masked_mean(states, genes)], 1)

    def _depths(self, input_ids: Tensor | None, real: Tensor) -> tuple[Tensor, Tensor]:
        """Where target and source depth stand, bool, (n_cells, n_tokens) each."""
        if input_ids is not None:
            target, source = self.config.target_depth_token_id, self.config.source_depth_token_id
            return real & (input_ids == target), real & (input_ids == source)
        from_the_end = real.flip(1).cumsum(1).flip(1)
        return real & (from_the_end == 2), real & (from_the_end == 1)


def masked_max(states: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the tokens of a mask, (n_cells, hidden_size); zeros for a cell without any."""
    lowest = torch.finfo(states.dtype).min
    highest = states.masked_fill(~mask.unsqueeze(-1), lowest).amax(1)
    return highest * mask.any(1, keepdim=True).to(states.dtype)


class NormedClassifier(nn.Module):
    """Batch norm without scale and shift, then linear layer, ReLU, linear layer.

    Parameters
    ----------
    hidden_size, inner_size, num_labels
        Widths.
    """

    def __init__(self, hidden_size: int, inner_size: int, num_labels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(hidden_size, affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, inner_size)
        self.out_proj = nn.Linear(inner_size, num_labels)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n_cells, hidden_size) -> (n_cells, num_labels)."""
        norm = self.norm
        if self.training and len(vectors) == 1:
            # A cell alone has no variance; the running one must do.
            normed = nn.functional.batch_norm(vectors, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            normed = norm(vectors)
        return self.out_proj(self.linear(normed).relu())


class ScFoundationForSequenceClassification(ScFoundationPreTrainedModel):
    """Labels cells, from the maximum over the tokens."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^decoder\."]  # noqa: RUF012

    def __init__(self, config: ScFoundationConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scfoundation = ScFoundationModel(config)
        self.classifier = NormedClassifier(config.hidden_size, config.classifier_hidden_size, config.num_labels)
        self.post_init()

    def freeze_as_the_original(self) -> list[str]:
        """Train only the second last layer of the encoder and the head; returns the names of what trains."""
        for parameter in self.scfoundation.parameters():
            parameter.requires_grad_(False)
        for parameter in self.scfoundation.layers[-2].parameters():
            parameter.requires_grad_(True)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

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

        Parameters
        ----------
        labels
            Class numbers, int64, (n_cells,).
        input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            As of :class:`ScFoundationModel`. The original's cells have no depth tokens here: tokenise with
            ``depth_tokens=False``.
        """
        encoded = self.scfoundation(
            input_ids,
            values,
            attention_mask,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        states = encoded.last_hidden_state
        real = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if attention_mask is not None and not self.config.pool_padding:
            real = attention_mask.bool()
        logits = self.classifier(masked_max(states, real))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)
