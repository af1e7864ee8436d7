"""What scPRINT knows of a gene before any cell: the vector of its protein, and its place on the genome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from scfm_hf.models.side_tables import SideTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig

#: Genes whose starts are at most so many bases after that of the one before share its position.
NEAR = 10_000


class GeneTables(nn.Module):
    """Frozen vectors of genes and of their places, in two tables beside the weights."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__()
        self.size = config.hidden_size
        width = config.gene_vector_size or config.hidden_size
        self.vectors = SideTable("gene_vectors.safetensors", config.vocab_size, width)
        self.positions = SideTable("gene_positions.safetensors", config.vocab_size, config.hidden_size)

    @property
    def num_embeddings(self) -> int:
        """Number of genes, padding included."""
        return self.vectors.n_rows

    def forward(self, input_ids: Tensor) -> Tensor:
        """Vector of each gene plus that of its place, (n_cells, n_genes, hidden_size)."""
        return self.proteins(input_ids) + self.positions(input_ids)

    def proteins(self, input_ids: Tensor) -> Tensor:
        """Vector of each gene, (n_cells, n_genes, hidden_size)."""
        return squeeze(self.vectors(input_ids), self.size)

    def grow(self, vectors: ArrayLike, positions: ArrayLike) -> None:
        """Append rows to both tables, (n_new, gene_vector_size) and (n_new, hidden_size)."""
        for table, new in ((self.vectors, vectors), (self.positions, positions)):
            rows = np.asarray(new, np.float32)
            before = table(torch.arange(table.n_rows)).numpy()
            table.n_rows += len(rows)
            table.set_rows(np.concatenate([before, rows]))


def squeeze(vectors: Tensor, size: int) -> Tensor:
    """Average vectors in ``size`` equal windows, (..., n_columns) -> (..., size)."""
    if vectors.shape[-1] == size:
        return vectors
    return nn.functional.adaptive_avg_pool1d(vectors.flatten(0, -2), size).unflatten(0, vectors.shape[:-1])


def genome_positions(chromosomes: Sequence[str], starts: ArrayLike) -> NDArray[np.int64]:
    """Number genes along the genome of one organism, from 1; close neighbours share a number.

    The number rises where the chromosome changes, or a gene starts more than 10 kb after the one before it.

    Parameters
    ----------
    chromosomes, starts
        Of each gene, (n_genes,).

    Returns
    -------
    int64, (n_genes,).
    """
    names, places = np.asarray(chromosomes).astype(str), np.asarray(starts, np.int64)
    order = np.lexsort((places, names))
    rises = np.ones(len(order), bool)
    rises[1:] = (names[order][1:] != names[order][:-1]) | (np.diff(places[order]) > NEAR)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(rises)
    return numbers


def position_vectors(positions: ArrayLike, size: int) -> NDArray[np.float32]:
    """Sines in even and cosines in odd columns of numbers from 1, (n_genes,) -> (n_genes, size)."""
    rates = torch.exp(torch.arange(0, size, 2) * (-np.log(10_000.0) / size))
    angles = (torch.as_tensor(np.asarray(positions)) - 1).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).float().numpy()
