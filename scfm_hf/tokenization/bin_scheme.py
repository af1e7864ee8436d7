"""The bin scheme: genes with their binned expression (scGPT and its kin)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization.binned_tokens import Selection, binned_tokens
from scfm_hf.tokenization.draws import CellDraws, Draws
from scfm_hf.tokenization.scheme import Column, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.bin import Ties
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock
    from scfm_hf.tokenization.ragged import Ragged


class BinScheme(Scheme):
    """Gives each gene of a cell a token and the bin of its expression among the cell's own values.

    The defaults are scGPT's way to zero-shot embeddings, with ties made deterministic. Its way to fine-tuning is
    ``target_sum=1e4, log1p=True, cls_value=0``, and ``include_zero_genes=True`` for integration.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`; no statistics are needed.
    n_bins, ties
        Bins, that of zero included (None: expression itself, not binned), and which of several possible bins a value
        takes: ``upper`` (as the published
        pretraining code), ``lower``, ``middle``, or ``random`` (as the released inference code).
    target_sum, log1p
        Scale each cell to this total over the known genes, and take log(1 + x), before binning.
    edges
        Rising edges, the same for all cells, in place of the quantiles of each cell's own values: bin 1 is below the
        first. Those of a corpus: :func:`scfm_hf.data.corpus_tokenizer.tokenizer_from_corpus`.
    include_zero_genes
        Tokens for genes without a count too.
    cls_value, pad_value
        Values of ``<cls>`` (None: the cells have none) and of padding.
    selection
        Which genes stay in a cell that is longer than the context: ``highest`` (the default: no draw), ``first``, or
        ``random`` (as the original).
    seed
        Of random bins and random selection; each cell has its own stream.
    draws, selection_draws
        Other sources of random numbers, such as the originals' shared streams; not saved with a tokenizer.
    gene_order, duplicates
        ``vocabulary`` and ``sum`` make the result independent of the order of the file and of repeated columns;
        ``file`` and ``keep`` are the original's way.

    References
    ----------
    Cui et al. 2024, Nature Methods 21, Methods, "Input embeddings".
    """

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        n_bins: int | None = 51,
        ties: Ties = "upper",
        target_sum: float | None = None,
        log1p: bool = False,
        edges: Sequence[float] | None = None,
        include_zero_genes: bool = False,
        cls_value: float | None = -2.0,
        pad_value: float = -2.0,
        selection: Selection = "highest",
        seed: int = 0,
        draws: Draws | None = None,
        selection_draws: Draws | None = None,
        gene_order: GeneOrder = "vocabulary",
        duplicates: Duplicates = "sum",
    ) -> None:
        super().__init__(vocabulary, statistics)
        self.gene_order, self.duplicates, self._pad_value = gene_order, duplicates, pad_value
        self._options: dict[str, Any] = {
            "n_bins": n_bins,
            "ties": ties,
            "target_sum": target_sum,
            "log1p": log1p,
            "edges": edges,
            "include_zero_genes": include_zero_genes,
            "cls_value": cls_value,
            "selection": selection,
            "draws": draws or CellDraws(seed, step="bins"),
            "selection_draws": selection_draws or CellDraws(seed, step="selection"),
        }

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``."""
        pad = self.vocabulary.token_to_id[self.vocabulary.special_tokens["pad"]]
        return {"input_ids": Column(pad), "values": Column(self._pad_value, np.float32)}

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``<cls>`` before the genes, where the vocabulary has it and it has a value."""
        cls = self.vocabulary.special_tokens.get("cls")
        return ((cls,), ()) if cls is not None and self._options["cls_value"] is not None else ((), ())

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Bin a block; see :meth:`Scheme.encode`."""
        before, _ = self.surrounding_tokens
        tokens = binned_tokens(
            block.counts,
            block.gene_ids,
            cls_id=self.vocabulary.token_to_id[before[0]] if before else None,
            max_length=max_length,
            cell_ids=block.cell_ids.tolist(),
            **self._options,
        )
        return {"input_ids": tokens.input_ids, "values": tokens.values}
