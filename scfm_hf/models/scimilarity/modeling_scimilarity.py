"""SCimilarity's encoder, and a classifier of cells on it.

Order of the data: log values x gene vectors -> hidden layers -> projection, brought to length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.scimilarity.configuration_scimilarity import SCimilarityConfig
from scfm_hf.models.scimilarity.layers_scimilarity import GeneSum, HiddenLayer
from scfm_hf.nn.pooling import unit_length


@dataclass
class SCimilarityOutput(CellModelOutput):
    """Output of the encoder; states are those of the cells, without an axis of genes.

    Parameters
    ----------
    last_hidden_state
        State of each cell after the last layer, (n_cells, hidden_sizes[-1]).
    latent
        Its projection at length 1, (n_cells, latent_size): what the heads see.
    cell_embedding
        The same, or as ``config.pooling`` and ``config.embedding_layer`` say.
    """

    latent: Tensor | None = None


class SCimilarityPreTrainedModel(CellPreTrainedModel):
    """Base of the SCimilarity models."""

    config_class = SCimilarityConfig
    config: SCimilarityConfig
    base_model_prefix = "scimilarity"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = False
    _no_split_modules = ["HiddenLayer"]  # noqa: RUF012
    # Heads of other checkpoints of this family: known, and of no use to a model without them.
    _keys_to_ignore_on_load_unexpected: Any = [r"^(decoder|classifier)\."]  # noqa: RUF012


class SCimilarityModel(SCimilarityPreTrainedModel):
    """The encoder."""

    def __init__(self, config: SCimilarityConfig) -> None:
        super().__init__(config)
        sizes: list[int | None] = [None, *config.hidden_sizes[:-1]]
        self.embedder = GeneSum(config)
        self.layers = nn.ModuleList(
            HiddenLayer(before, after, dropout=config.hidden_dropout_prob, eps=config.batch_norm_eps)
            for before, after in zip(sizes, config.hidden_sizes, strict=True)
        )
        self.projection = nn.Linear(config.hidden_sizes[-1], config.latent_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Vectors of the genes."""
        return self.embedder.genes

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the vectors of the genes."""
        self.embedder.genes = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SCimilarityOutput:
        """Encode cells.

        Parameters
        ----------
        input_ids
            Expressed genes, int64, (n_cells, n_tokens); None: ``values`` are whole profiles.
        values
            log(1 + counts per 10,000) of these genes, (n_cells, n_tokens); of all genes in the order of the vocabulary,
            (n_cells, num_genes), where no genes are named.
        attention_mask
            1 = real gene, (n_cells, n_tokens); None: all are. A cell without any gets zeros.
        inputs_embeds
            Gene vectors in place of ``input_ids``, (n_cells, n_tokens, hidden_sizes[0]).
        output_hidden_states
            Return the sum over the genes and the states of all layers, each (n_cells, its width).

        Raises
        ------
        ValueError
            If values are missing, or do not fit.
        """
        values = self._checked(input_ids, values, inputs_embeds)
        keep_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        alive = None if attention_mask is None else attention_mask.bool().any(1, keepdim=True)
        weights = values if attention_mask is None else values * attention_mask
        states = _kept_alive(self.embedder(input_ids, weights, inputs_embeds), alive)
        wanted = self.config.embedding_layer % (len(self.layers) + 1)
        kept = {0: states} if keep_all or wanted == 0 else {}
        for number, layer in enumerate(self.layers, start=1):
            states = _kept_alive(layer(states), alive)
            if keep_all or number == wanted:
                kept[number] = states
        projected = _kept_alive(self.projection(states), alive)
        latent = unit_length(projected)
        embedding = projected if wanted == len(self.layers) else kept[wanted]
        return SCimilarityOutput(
            last_hidden_state=states,
            cell_embedding=unit_length(embedding) if self.config.pooling == "unit" else embedding,
            hidden_states=tuple(kept[number] for number in range(len(self.layers) + 1)) if keep_all else None,
            latent=latent,
        )

    def _checked(self, input_ids: Tensor | None, values: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The values, if they and the genes fit together."""
        if values is None:
            raise ValueError("SCimilarity needs the values of the genes: pass values=, as the tokenizer gives them.")
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("Give input_ids or inputs_embeds, not both.")
        if input_ids is None and inputs_embeds is None and values.shape[1] != self.config.num_genes:
            raise ValueError(
                f"values has {values.shape[1]} columns; without input_ids= it must hold whole profiles, one value for "
                f"each of the {self.config.num_genes} genes of the vocabulary, in its order."
            )
        return values

    def profiles(self, input_ids: Tensor | None, values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Whole profiles, (n_cells, num_genes), zero where a gene has no value; genes added later are left out."""
        if input_ids is None:
            return values
        weights = values if attention_mask is None else values * attention_mask
        size = self.config.vocab_size
        whole = weights.new_zeros(len(values), size).scatter_add(1, input_ids, weights)
        return whole[:, : self.config.num_genes]


class SCimilarityForSequenceClassification(SCimilarityPreTrainedModel):
    """Labels cells by a linear layer on the embedding; the authors label them by their neighbours."""

    _keys_to_ignore_on_load_unexpected: Any = [r"^decoder\."]  # noqa: RUF012

    def __init__(self, config: SCimilarityConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.scimilarity = SCimilarityModel(config)
        self.classifier = nn.Linear(config.latent_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellClassifierOutput:
        """Label cells.

        ``labels`` are class numbers, int64, (n_cells,), -100 to leave a cell out. The other inputs are those of
        :meth:`SCimilarityModel.forward`.
        """
        encoded = self.scimilarity(
            input_ids,
            values,
            attention_mask,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(encoded.latent)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states)


def _kept_alive(states: Tensor, alive: Tensor | None) -> Tensor:
    """States with zeros for cells without a gene."""
    return states if alive is None else states * alive
