"""From the expression value of a gene to a vector."""

from __future__ import annotations

from torch import Tensor, nn


class ContinuousValueEncoder(nn.Module):
    """Two linear layers with ReLU between, layer norm and dropout; values are cut at a maximum, not below.

    Parameters
    ----------
    hidden_size, dropout, layer_norm_eps
        As in the configuration.
    max_value
        Largest value that is told apart.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Input embeddings".
    """

    def __init__(self, hidden_size: int, *, dropout: float, layer_norm_eps: float, max_value: float = 512) -> None:
        super().__init__()
        self.max_value = max_value
        self.linear1 = nn.Linear(1, hidden_size)
        self.linear2 = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """(n_cells, n_tokens) -> (n_cells, n_tokens, hidden_size)."""
        values = values.unsqueeze(-1).to(self.norm.weight.dtype).clamp(max=self.max_value)
        return self.dropout(self.norm(self.linear2(self.linear1(values).relu())))


class NormedEmbedding(nn.Module):
    """An embedding followed by layer norm: of genes, of binned values, of batches, of modalities.

    Parameters
    ----------
    n_entries, hidden_size, layer_norm_eps
        As the names say.
    padding_idx
        Entry that does not train.
    """

    def __init__(
        self, n_entries: int, hidden_size: int, *, layer_norm_eps: float, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_entries, hidden_size, padding_idx=padding_idx)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., hidden_size)."""
        return self.norm(self.embedding(ids.long()))
