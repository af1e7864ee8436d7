"""GeneCompass's embeddings: gene, value and prior knowledge, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from scfm_hf.models.side_tables import SideTable

if TYPE_CHECKING:
    from scfm_hf.models.genecompass.configuration_genecompass import GeneCompassConfig

_JOINED_NORM_EPS = 1e-5


class GeneCompassEmbeddings(nn.Module):
    """Gene embedding, value and projected prior knowledge, concatenated and brought back to the model's width.

    The tables of prior knowledge lie beside the weights. For cells of the second species the row of a gene that has a
    homolog is that of the homolog.
    """

    def __init__(self, config: GeneCompassConfig) -> None:
        super().__init__()
        size, priors = config.hidden_size, config.prior_sizes
        if config.num_prior_genes is None:
            config.num_prior_genes = config.vocab_size
        n_rows = config.num_prior_genes
        self.prior_weight = config.prior_weight
        self.use_values = config.use_values
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.tables = nn.ModuleDict(
            {name: SideTable(f"{name}_knowledge.safetensors", n_rows, width) for name, width in priors.items()}
        )
        self.projections = nn.ModuleDict({name: nn.Linear(width, size) for name, width in priors.items()})
        self.join = nn.Linear(size * (1 + len(priors)) + int(config.use_values), size)
        self.join_norm = nn.LayerNorm(size, eps=_JOINED_NORM_EPS)
        self.join_projection = nn.Linear(size, size)
        self.activation = ACT2FN["quick_gelu"]
        self.homolog_ids = nn.Buffer(torch.arange(n_rows))

    def initial_tensors(self) -> dict[str, Tensor]:
        """A fresh model knows no homologs: every gene is its own."""
        return {"homolog_ids": torch.arange(len(self.homolog_ids))}

    def forward(
        self,
        input_ids: Tensor | None,
        values: Tensor | None,
        species_ids: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size); without ids there is no prior knowledge."""
        genes = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        parts = [genes]
        if self.use_values:
            if values is None:
                raise ValueError(
                    "GeneCompass needs the values of the genes: pass values=, as the tokenizer gives them."
                )
            parts.append(values.unsqueeze(-1).to(genes.dtype))
        if input_ids is None:
            has_row = torch.zeros(genes.shape[:2], dtype=torch.bool, device=genes.device)
            rows_of = has_row.long()
        else:
            rows_of, has_row = self._prior_ids(input_ids, species_ids)
        for name, projection in self.projections.items():
            rows = self.tables[name](rows_of).to(genes.dtype) * has_row.unsqueeze(-1)
            parts.append(self.prior_weight * projection(rows))
        joined = self.join_projection(self.activation(self.join_norm(self.join(torch.cat(parts, -1)))))
        positions = torch.arange(genes.shape[1], device=genes.device)
        joined = joined + self.token_type_embeddings.weight[0] + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(joined))

    def _prior_ids(self, input_ids: Tensor, species_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows of prior knowledge, and where there is one: genes that the vocabulary got later have none."""
        n_rows = len(self.homolog_ids)
        rows = input_ids.clamp(max=n_rows - 1)
        if species_ids is not None:
            rows = torch.where(species_ids.reshape(-1, 1) == 1, self.homolog_ids[rows], rows)
        return rows, input_ids < n_rows
