"""A network of genes from scPRINT's queries and keys, averaged over cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from scfm_hf.models.scprint.layers_scprint import GroupedAttention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from scfm_hf.models.scprint.modeling_scprint import ScPrintModel

#: How scores of queries and keys become weights.
Weighting = Literal["softmax", "sinkhorn", "none"]
#: How the heads of all layers become one network.
Heads = Literal["mean", "max", "none"]

_SINKHORN_ROUNDS, _SINKHORN_EPS = 100, 0.1


class GeneNetwork:
    """Collects queries and keys over cells, and makes networks of them.

    Call :meth:`update` for each batch, then :meth:`network`. Sums are kept in float64, one a gene and head, so that any
    number of cells may go through; the order of genes in a cell does not matter.

    Parameters
    ----------
    model
        The encoder (``model.scprint`` of a model with heads), in evaluation mode.
    layers
        Numbers of the layers to read, from 0; None: all.
    genes
        Vocabulary ids of the genes of the network, (n_genes,); others take part in the cells alone. None: all; the sums
        of a large model over all genes are several GB.
    """

    def __init__(
        self, model: ScPrintModel, *, layers: Sequence[int] | None = None, genes: Tensor | None = None
    ) -> None:
        config = model.config
        all_attentions = [module for module in model.layers.modules() if isinstance(module, GroupedAttention)]
        attentions = [attention for attention in all_attentions if not attention.crossed]
        if wrong := [layer for layer in layers or () if not 0 <= layer < len(attentions)]:
            raise ValueError(f"layers={wrong} do not exist: the model has {len(attentions)}.")
        self.model = model
        self.attentions = [attentions[layer] for layer in (range(len(attentions)) if layers is None else layers)]
        self.n_cell_tokens = 0 if config.cell_blocks else config.n_cell_tokens
        self.head_size = config.hidden_size // config.num_attention_heads
        self._genes = torch.arange(config.vocab_size) if genes is None else genes.cpu().unique()
        self._row_of_gene = torch.full((config.vocab_size,), -1)
        self._row_of_gene[self._genes] = torch.arange(len(self._genes)) + self.n_cell_tokens
        n_rows = self.n_cell_tokens + len(self._genes)
        n_heads = len(self.attentions) * config.num_attention_heads
        # Cell tokens first, then the genes.
        self._sums = torch.zeros(2, n_heads, n_rows, self.head_size, dtype=torch.float64)
        self._counts = torch.zeros(n_rows, dtype=torch.float64)

    @torch.no_grad()
    def update(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor) -> None:
        """Add a batch of cells: inputs of :meth:`ScPrintModel.forward`."""
        with _Recorder(self.attentions) as recorder:
            self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        rows = self._row_of_gene[input_ids.cpu()]
        cell_rows = torch.arange(self.n_cell_tokens).expand(len(rows), -1)
        rows = torch.cat([cell_rows, rows], 1)
        real = rows >= 0
        if attention_mask is not None:
            real[:, self.n_cell_tokens :] &= attention_mask.cpu().bool()
        where = rows[real]
        self._counts.index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
        for side, parts in enumerate(zip(*recorder.found, strict=True)):
            # (n_cells, n_layers x n_heads, n_tokens, head_size)
            joined = torch.cat(parts, 1).cpu().double().transpose(1, 2)
            self._sums[side].index_add_(1, where, joined[real].transpose(0, 1))

    @property
    def gene_ids(self) -> Tensor:
        """Vocabulary ids of the genes that were seen, int64, (n_genes,), in the order of the network."""
        return self._genes[self._counts[self.n_cell_tokens :] > 0]

    def network(
        self,
        *,
        weighting: Weighting = "softmax",
        heads: Heads = "mean",
        symmetric: bool = False,
        threshold: bool = False,
        top: int | None = None,
    ) -> Tensor:
        """Weights between genes.

        Parameters
        ----------
        weighting
            ``softmax`` over the keys; ``sinkhorn``: rows and columns sum to the same; ``none``: scores as they are.
            Cell tokens take part, and are left out afterwards.
        heads
            ``mean`` or ``max`` over the heads of all layers, or ``none``: each for itself, layer by layer.
        symmetric
            Mean of the network and its transpose.
        threshold
            Set weights below 1 / (number of cell tokens and genes) to 0.
        top
            Keep the so many largest weights of a row, cell tokens among them; others are 0.

        Returns
        -------
        float32, (n_genes, n_genes), or with a last axis of heads; rows are queries, columns keys, both in the order of
        :attr:`gene_ids`.
        """
        scores = self.weights(weighting)
        n_tokens = scores.shape[-1]
        if symmetric:
            scores = (scores + scores.transpose(1, 2)) / 2
        if heads in ("mean", "max"):
            scores = scores.mean(0) if heads == "mean" else scores.amax(0)
        elif heads == "none":
            scores = scores.permute(1, 2, 0)
        else:
            raise ValueError(f"heads={heads!r} is not one of 'mean', 'max', 'none'.")
        if threshold:
            scores = scores.masked_fill(scores < 1 / n_tokens, 0)
        if top is not None:
            kept = torch.zeros_like(scores, dtype=torch.bool)
            kept.scatter_(1, scores.topk(min(top, scores.shape[1]), dim=1).indices, True)
            scores = scores * kept
        return scores[self.n_cell_tokens :, self.n_cell_tokens :]

    def weights(self, weighting: Weighting = "softmax") -> Tensor:
        """Weights of each head between all cell tokens and genes that were seen, (n_heads, n_tokens, n_tokens)."""
        if not len(self.gene_ids):
            raise ValueError("No cell was seen: call update first.")
        seen = self._counts.nonzero().flatten()
        query, key = (self._sums[:, :, seen] / self._counts[seen][:, None]).float()
        scores = query @ key.transpose(1, 2) / self.head_size**0.5
        if weighting == "softmax":
            return scores.softmax(-1)
        if weighting == "sinkhorn":
            return torch.stack([_sinkhorn(one) for one in scores]) * self.head_size
        if weighting != "none":
            raise ValueError(f"weighting={weighting!r} is not one of 'softmax', 'sinkhorn', 'none'.")
        return scores


def _sinkhorn(scores: Tensor) -> Tensor:
    """Weights whose rows and columns have equal sums, by 100 rounds in the logarithm, (n, n) -> (n, n)."""
    n_tokens = len(scores)
    wanted = -torch.log(torch.tensor(float(n_tokens)))
    scaled = scores / _SINKHORN_EPS
    rows, columns = torch.zeros(n_tokens, 1), torch.zeros(1, n_tokens)
    for _ in range(_SINKHORN_ROUNDS):
        rows = wanted - (scaled + columns).logsumexp(1, keepdim=True)
        columns = wanted - (scaled + rows).logsumexp(0, keepdim=True)
    return (scaled + rows + columns).exp()


@dataclass
class _Recorder:
    """Keeps queries and keys of attention layers while a model runs."""

    attentions: list[GroupedAttention]
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __enter__(self) -> _Recorder:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, GroupedAttention)
            query, key, _ = module.project(inputs[0])
            self.found.append((query, key))

        self._handles = [module.register_forward_pre_hook(keep) for module in self.attentions]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
