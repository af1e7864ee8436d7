"""CellPLM's encoder, and its classifier of cells or sets of cells.

Order of the data: log counts x gene embedding (+ position or batch) -> embedder -> layers over the cells of a set ->
norm -> latent. A token is a cell; a sequence is a set of cells, which the caller names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig
from scfm_hf.models.cellplm.decoders_cellplm import PerceptronDecoder
from scfm_hf.models.cellplm.encoders_cellplm import CellNorm, encoder_layer
from scfm_hf.models.cellplm.latents_cellplm import latent_of
from scfm_hf.models.cellplm.masking_cellplm import draw_input_mask
from scfm_hf.models.cellplm.sets_cellplm import CellSets
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.nn.batch_norm import TokenBatchNorm


@dataclass
class CellPLMOutput(CellModelOutput):
    """Output of CellPLM's encoder; a token is a cell, so that states have no token axis.

    Parameters
    ----------
    last_hidden_state
        Normed state of each cell after the last layer, (n_cells, hidden_size); also the last of ``hidden_states``.
    latent
        Latent vector of ``last_hidden_state``, (n_cells, latent_size): what the heads see. In training, a draw.
    cell_embedding
        The latent vector, or as ``config.pooling`` and ``config.embedding_layer`` say.
    encoder_output
        State after the last layer, before the norm, (n_cells, hidden_size).
    cluster_logits
        Scores of the Gaussian mixture's clusters, (n_cells, num_clusters).
    latent_loss
        Loss of the latent, scalar; only on request.
    """

    latent: Tensor | None = None
    encoder_output: Tensor | None = None
    cluster_logits: Tensor | None = None
    latent_loss: Tensor | None = None


@dataclass
class CellPLMClassifierOutput(CellClassifierOutput):
    """Output of CellPLM's classifier; ``losses`` are the parts of ``loss``: ``class`` and ``latent``."""

    losses: dict[str, Tensor] | None = None


class CellPLMPreTrainedModel(CellPreTrainedModel):
    """Base of the CellPLM models."""

    config_class = CellPLMConfig
    config: CellPLMConfig
    base_model_prefix = "cellplm"
    _no_split_modules = ["EncoderLayer", "PerceptronLayer"]  # noqa: RUF012
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [r"^(decoder|classifier)\."]  # noqa: RUF012


class PlanePosition(nn.Module):
    """Sinusoids of two coordinates in [0, 1], cut into 100 bins each; a learned vector where they are missing."""

    n_bins = 100

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(hidden_size))

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"missing": torch.zeros(len(self.missing))}

    def forward(self, coordinates: Tensor) -> Tensor:
        """(n_cells, 2) -> (n_cells, hidden_size); coordinates of -1 are missing."""
        bins = ((coordinates.float() * 1.02 - 0.01) * self.n_bins).trunc().clamp(0, self.n_bins - 1)
        half = len(self.missing) // 2
        steps = torch.arange(half // 2, device=coordinates.device, dtype=torch.float32)
        frequencies = torch.exp(-2 * steps * math.log(1e4) / half)
        angles = bins.flip(1)[..., None] * frequencies
        encoded = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        absent = (coordinates[:, :1] == -1).expand_as(encoded)
        return torch.where(absent, self.missing, encoded.to(self.missing.dtype))


class CellEmbedder(nn.Module):
    """From the counts of a cell to its first state."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.genes = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position = PlanePosition(size) if config.position_type else None
        self.batch = nn.Embedding(config.num_batches, size) if config.add_batch_to_input else None
        self.linear = nn.Linear(size, size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = CellNorm(config.norm_type, size)

    def sum_genes(self, input_ids: Tensor | None, weights: Tensor, inputs_embeds: Tensor | None) -> Tensor:
        """Sum of the gene embeddings by weight, (n_cells, hidden_size), without one vector a gene and cell."""
        if inputs_embeds is not None:
            return torch.einsum("cg,cgh->ch", weights.to(inputs_embeds.dtype), inputs_embeds)
        if input_ids is None:
            raise ValueError("Give the genes of the cells as input_ids= or as inputs_embeds=.")
        table = self.genes.weight
        return nn.functional.embedding_bag(input_ids, table, per_sample_weights=weights.to(table.dtype), mode="sum")

    def forward(self, summed: Tensor, coordinates: Tensor | None, batch_index: Tensor | None) -> Tensor:
        """(n_cells, hidden_size) -> the same."""
        if self.position is not None and self.config.use_positional_encoding:
            absent = summed.new_full((len(summed), 2), -1.0)
            summed = summed + self.position(absent if coordinates is None else coordinates)
        if self.batch is not None:
            if batch_index is None:
                raise ValueError("This model adds the batch to its input: say each cell's with batch_index=.")
            summed = summed + self.batch(batch_index)
        return self.norm(self.dropout(self.linear(summed).relu()))


class CellPLMModel(CellPLMPreTrainedModel):
    """The encoder with its latent."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__(config)
        self.embedder = CellEmbedder(config)
        self.layers = nn.ModuleList(encoder_layer(config) for _ in range(config.num_hidden_layers))
        if config.num_batch_norms:
            self.norm: nn.Module = TokenBatchNorm(
                config.hidden_size, n_domains=config.num_batch_norms, affine=True, eps=1e-5
            )
        else:
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.latent = latent_of(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Embedding of the genes."""
        return self.embedder.genes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding of the genes."""
        self.embedder.genes = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cell_sets: Tensor | None = None,
        batch_index: Tensor | None = None,
        coordinates: Tensor | None = None,
        input_mask: Tensor | None = None,
        latent_noise: Tensor | None = None,
        cluster_draws: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_latent_loss: bool = False,
    ) -> CellPLMOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Genes, int64, (n_cells, n_genes).
        values
            Their counts, (n_cells, n_genes).
        attention_mask
            1 = real gene, (n_cells, n_genes); None: all are. A cell without any is in no set and gets zeros.
        cell_sets
            Number of the set that a cell belongs to, int64, (n_cells,): cells of a set see each other, in the order of
            the batch. -1, or None: the cell is a set of its own.
        batch_index
            Batch of each cell, int64, (n_cells,); for models that add it to the input or normalise by it.
        coordinates
            Place of each cell in its field of view, in [0, 1], (n_cells, 2), -1 where it is missing; for models with
            ``use_positional_encoding``.
        input_mask
            1 where a gene is hidden from the input, (n_cells, n_genes). None: drawn in training, by the configuration.
        latent_noise, cluster_draws
            Random draws of the latent, (n_cells, latent_size) and (n_cells, num_clusters); None: drawn in training. In
            evaluation ``cluster_draws`` chooses clusters as the original does in every call.
        inputs_embeds
            Gene embeddings in place of ``input_ids``, (n_cells, n_genes, hidden_size).
        output_hidden_states, output_latent_loss
            Return the states of all layers, and the loss of the latent.

        Raises
        ------
        ValueError
            If values are missing, or not exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if values is None:
            raise ValueError("CellPLM needs the counts of the genes: pass values=, as the tokenizer gives them.")
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if input_mask is None and self.training:
            input_mask = draw_input_mask(values, self.config)
        alive = None if attention_mask is None else attention_mask.bool().any(1)
        sets = CellSets(cell_sets, alive)
        summed = self.embedder.sum_genes(input_ids, _log_counts(values, attention_mask, input_mask), inputs_embeds)
        states = self.embedder(summed, coordinates, batch_index)
        states = states if alive is None else states * alive[:, None].to(states.dtype)
        wanted = self.config.embedding_layer % (self.config.num_hidden_layers + 1)
        kept = {0: states} if keep_all or wanted == 0 else {}
        for number, layer in enumerate(self.layers, start=1):
            states = sets.apply(layer, states)
            if keep_all or number == wanted:
                kept[number] = states
        last = self._normed(states, alive, batch_index)
        counted = torch.ones(len(states), dtype=torch.bool, device=states.device) if alive is None else alive
        latent = self.latent(last, latent_noise, cluster_draws, counted)
        vector = latent.vector * counted[:, None].to(last.dtype)
        embedding = vector
        if wanted < len(self.layers) or self.config.pooling == "hidden":
            embedding = last if wanted == len(self.layers) else self._normed(kept[wanted], alive, batch_index)
            if self.config.pooling == "latent":
                embedding = self.latent(embedding, latent_noise, cluster_draws, counted).vector
            embedding = embedding * counted[:, None].to(last.dtype)
        return CellPLMOutput(
            last_hidden_state=last,
            cell_embedding=embedding,
            hidden_states=(*(kept[number] for number in range(len(self.layers))), last) if keep_all else None,
            latent=vector,
            encoder_output=states,
            cluster_logits=latent.cluster_logits,
            latent_loss=latent.loss if output_latent_loss else None,
        )

    def _normed(self, states: Tensor, alive: Tensor | None, batch_index: Tensor | None) -> Tensor:
        """The norm before the latent, (n_cells, hidden_size); cells without a gene stay zero."""
        if isinstance(self.norm, TokenBatchNorm):
            # The original takes the first norm in evaluation, whatever the batch is.
            domain = batch_index if self.training else None
            domain = torch.zeros(len(states), dtype=torch.long, device=states.device) if domain is None else domain
            normed = self.norm(states[:, None], None if alive is None else alive[:, None], domain)[:, 0]
        else:
            normed = self.norm(states)
        return normed if alive is None else normed * alive[:, None].to(normed.dtype)


class CellPLMForSequenceClassification(CellPLMPreTrainedModel):
    """Labels cells from their latent vector; or sets of cells, see ``config.label_sets``."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^decoder\."]  # noqa: RUF012

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cellplm = CellPLMModel(config)
        self.classifier = PerceptronDecoder(
            config.latent_size,
            config.classifier_hidden_size,
            config.num_labels,
            n_layers=config.classifier_layers,
            dropout=0.0 if config.label_sets else config.hidden_dropout_prob,
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cell_sets: Tensor | None = None,
        batch_index: Tensor | None = None,
        coordinates: Tensor | None = None,
        input_mask: Tensor | None = None,
        latent_noise: Tensor | None = None,
        cluster_draws: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellPLMClassifierOutput:
        """Label cells.

        ``labels`` are class numbers, int64, (n_cells,); cells with -100 are context alone. The other inputs are those
        of :meth:`CellPLMModel.forward`.
        """
        encoded = self.cellplm(
            input_ids,
            values,
            attention_mask,
            cell_sets,
            batch_index,
            coordinates,
            input_mask,
            latent_noise,
            cluster_draws,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_latent_loss=labels is not None,
            return_dict=True,
        )
        vectors = encoded.latent
        if self.config.label_sets:
            alive = None if attention_mask is None else attention_mask.bool().any(1)
            vectors = CellSets(cell_sets, alive).apply(lambda cells: cells.mean(1, keepdim=True), vectors)
        logits, _ = self.classifier(vectors)
        if labels is None:
            return CellPLMClassifierOutput(None, logits, encoded.cell_embedding, encoded.hidden_states)
        losses = {
            "class": self.loss_function(labels=labels, pooled_logits=logits, config=self.config),
            "latent": encoded.latent_loss,
        }
        total = losses["class"] + losses["latent"]
        return CellPLMClassifierOutput(total, logits, encoded.cell_embedding, encoded.hidden_states, losses=losses)


def _log_counts(values: Tensor, attention_mask: Tensor | None, input_mask: Tensor | None) -> Tensor:
    """log(1 + count) of the genes that are real and not hidden, (n_cells, n_genes)."""
    weights = values.float().log1p()
    if attention_mask is not None:
        weights = weights * attention_mask
    return weights if input_mask is None else weights * (1 - input_mask.float())
