"""UCE's tokens: frozen vectors of proteins, their way into the model, and the small networks behind it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scfm_hf.models.side_tables import SideTable
from scfm_hf.nn.pooling import unit_length
from scfm_hf.nn.positions import sinusoids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scfm_hf.models.uce.configuration_uce import UceConfig

#: Vectors that are encoded at a time: wide as they are, all those of a batch would take more memory than the model.
_AT_A_TIME = 256


def part_name(number: int) -> str:
    """Name of a file of the table: the released species first, then one for each that was added."""
    return f"proteins_{number}.safetensors" if number else "proteins.safetensors"


class ProteinTable(nn.Module):
    """Vectors by id, read from the files beside the weights.

    Parameters
    ----------
    part_sizes
        Rows of each file; ids count through all of them.
    width
        Numbers a row.
    """

    def __init__(self, part_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.parts = nn.ModuleList(SideTable(part_name(i), size, width) for i, size in enumerate(part_sizes))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors, float32, (*ids.shape, token_dim)."""
        if len(self.parts) == 1:
            return self.parts[0](ids)
        rows = torch.zeros(*ids.shape, self.width, device=ids.device)
        first = 0
        for part in self.parts:
            assert isinstance(part, SideTable)
            inside = (ids >= first) & (ids < first + part.n_rows)
            found = part((ids - first).clamp(0, part.n_rows - 1))
            rows = torch.where(inside.unsqueeze(-1), found, rows)
            first += part.n_rows
        return rows


class ProteinEncoder(nn.Module):
    """Linear layer, GELU and layer norm."""

    def __init__(self, config: UceConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.token_dim, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., token_dim) -> (..., hidden_size)."""
        return self.norm(nn.functional.gelu(self.linear(vectors.to(self.linear.weight.dtype))))


class UceEmbeddings(nn.Module):
    """Vectors scaled to length 1, encoded, and a sinusoid of the position."""

    def __init__(self, config: UceConfig) -> None:
        super().__init__()
        self.table = ProteinTable(config.part_sizes, config.token_dim)
        self.encoder = ProteinEncoder(config)
        self.scale = math.sqrt(config.hidden_size)
        self.size = (config.max_position_embeddings, config.hidden_size)
        self.positions = nn.Buffer(sinusoids(*self.size), persistent=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def initial_tensors(self) -> dict[str, Tensor]:
        """The computed positions."""
        return {"positions": sinusoids(*self.size)}

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size)."""
        if input_ids is None:
            assert inputs_embeds is not None
            tokens = self.encoder(unit_length(inputs_embeds))
        elif torch.compiler.is_compiling():
            # How many genes differ depends on the cells, which a compiled graph cannot.
            tokens = self.encoder(unit_length(self.table(input_ids)))
        else:
            # Vectors are wide and genes repeat, within a cell and from cell to cell: each is read and encoded once.
            ids, place = torch.unique(input_ids, return_inverse=True)
            # All parts have one size: pieces of memory of ever other sizes leave holes, which add up over the batches.
            ids = nn.functional.pad(ids, (0, -len(ids) % _AT_A_TIME), value=int(ids[-1]))
            parts = [self.encoder(unit_length(self.table(some))) for some in ids.split(_AT_A_TIME)]
            tokens = torch.cat(parts)[place]
        return self.dropout(tokens * self.scale + self.positions[: tokens.shape[1]].to(tokens.dtype))


class NormedPerceptron(nn.Module):
    """(Linear, LayerNorm, GELU, dropout) for each hidden width, then Linear."""

    def __init__(self, sizes: Sequence[int], *, layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        pairs = list(zip(sizes[:-2], sizes[1:-1], strict=True))
        self.linears = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairs)
        self.norms = nn.ModuleList(nn.LayerNorm(n_out, eps=layer_norm_eps) for _, n_out in pairs)
        self.last = nn.Linear(sizes[-2], sizes[-1])
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., first width) -> (..., last width)."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            vectors = self.dropout(nn.functional.gelu(norm(linear(vectors))))
        return self.last(vectors)
