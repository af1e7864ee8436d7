"""scGPT-spatial's scheme: bins of expression relative to the slide's and to the gene's own mean."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from scfm_hf.tokenization.bin_scheme import BinScheme
from scfm_hf.tokenization.scheme import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.bin import Ties
    from scfm_hf.tokenization.binned_tokens import Selection
    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock
    from scfm_hf.tokenization.ragged import Ragged


class SlideMeans:
    """Mean of a slide, and of those of its genes that the model brings no mean of.

    Both are means of non-zero values. The original takes those of genes after it has divided by the slide's, all in
    float32, and a last bit may decide on a bin: so counts of these genes are kept until the slide's mean is known.
    """

    def __init__(self) -> None:
        self._total, self._number = 0.0, 0
        self._genes: list[NDArray[np.int32]] = []
        self._counts: list[NDArray[np.float32]] = []

    def add(self, genes: NDArray[Any], counts: NDArray[Any], wanted: NDArray[np.bool_]) -> None:
        """Take some non-zero counts in, with the columns of their genes; ``wanted`` are genes without a mean."""
        self._total += float(counts.sum(dtype=np.float64))
        self._number += len(counts)
        chosen = wanted[genes]
        self._genes.append(genes[chosen].astype(np.int32))
        self._counts.append(counts[chosen].astype(np.float32))

    @property
    def of_slide(self) -> np.float32:
        """Mean of all non-zero counts."""
        return np.float32(self._total / max(self._number, 1))

    def of_genes(self, n_genes: int) -> NDArray[np.float64]:
        """Mean of each gene over the slide's, (n_genes,); NaN for those that were not wanted or have no count."""
        genes, counts = np.concatenate(self._genes), np.concatenate(self._counts)
        order = np.argsort(genes, kind="stable")
        found, first = np.unique(genes[order], return_index=True)
        means = np.full(n_genes, np.nan)
        means[found] = [part.mean() for part in np.split(counts[order] / self.of_slide, first[1:]) if len(part)]
        return means


class ScGPTSpatialScheme(BinScheme):
    """Divides counts by the mean of their slide and by the mean of their gene, and bins the rest cell by cell.

    The slide's mean is that of all its non-zero counts of known genes. Genes whose own mean the model does not bring
    (``statistics["gene_mean"]``, NaN there) take it from the slide: up to rounding, only for these does a cell's
    result depend on the cells around it.

    Offers the column ``slide_mean`` beside those of the model; where ``coordinates`` are named, also these and
    ``slide_index``, which the models that predict expression take.

    Parameters
    ----------
    vocabulary, statistics
        See :class:`~scfm_hf.tokenization.scheme.Scheme`.
    slide_key
        Column of obs that says which slide a cell lies on. None: all cells of the file are one slide, as in the
        original.
    coordinates
        Two columns of obs with the place of a cell on its slide, for the neighbour objective.
    normalise
        Divide at all; counts enter as they are otherwise.
    n_bins, ties, include_zero_genes, cls_value, pad_value, selection, seed, draws, selection_draws, gene_order
        As of :class:`~scfm_hf.tokenization.bin_scheme.BinScheme`. ``ties="random"``, ``selection="random"``,
        ``gene_order="file"`` and ``duplicates="keep"`` are the original's way; fine-tuning has ``cls_value=0``.
    duplicates
        What becomes of columns that mean the same gene.

    References
    ----------
    Wang et al. 2025, bioRxiv 2025.02.05.636714, "Data normalisation".
    """

    looks_ahead = True

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        statistics: Mapping[str, NDArray[np.float64]],
        *,
        slide_key: str | None = None,
        coordinates: Sequence[str] | None = None,
        normalise: bool = True,
        n_bins: int | None = 51,
        ties: Ties = "upper",
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
        super().__init__(
            vocabulary,
            statistics,
            n_bins=n_bins,
            ties=ties,
            include_zero_genes=include_zero_genes,
            cls_value=cls_value,
            pad_value=pad_value,
            selection=selection,
            seed=seed,
            draws=draws,
            selection_draws=selection_draws,
            gene_order=gene_order,
            duplicates=duplicates,
        )
        self.slide_key, self.coordinates, self.normalise = slide_key, coordinates, normalise
        self._slides: dict[str, SlideMeans] = {}
        #: Divisors of each column of the counts by slide, made once all cells were seen.
        self._divisors: dict[str, NDArray[np.float64]] = {}

    @property
    def columns(self) -> Mapping[str, Column]:
        """``input_ids`` and ``values``; where it is named, the place of each cell and the number of its slide."""
        return {
            **super().columns,
            "coordinates": Column(0.0, np.float32, per_cell=True),
            "slide_index": Column(-1, per_cell=True),
        }

    def look_ahead(self, blocks: Iterable[ProfileBlock]) -> None:
        """Gather the means of every slide."""
        known = np.empty(0)
        for block in blocks:
            known = self._known(block.gene_ids)
            lacking = np.isnan(known)
            for name, values in self._by_slide(block):
                genes, counts = block.counts.indices[values], block.counts.data[values]
                expressed = counts != 0
                self._slides.setdefault(name, SlideMeans()).add(genes[expressed], counts[expressed], lacking)
        for name, means in self._slides.items():
            self._divisors[name] = np.where(np.isnan(known), means.of_genes(len(known)), known)

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Normalise and bin a block; see :meth:`Scheme.encode`."""
        names = self._slides_of(block).tolist()
        if self.normalise:
            block = replace(block, counts=self._relative(block))
        encoded = super().encode(block, max_length=max_length)
        encoded["slide_mean"] = np.array([self._slides[name].of_slide for name in names], np.float32)
        if self.coordinates is not None:
            encoded["coordinates"] = self._places(block)
            encoded["slide_index"] = np.array([_number(name) for name in names], np.int64)
        return encoded

    def _relative(self, block: ProfileBlock) -> csr_array:
        """Counts over the means of slide and gene, float32: in this order of operations, which decides on ties."""
        counts = block.counts
        scaled = np.empty(len(counts.data), np.float32)
        for name, values in self._by_slide(block):
            relative = counts.data[values].astype(np.float32) / self._slides[name].of_slide
            scaled[values] = relative / self._divisors[name][counts.indices[values]]
        return csr_array((scaled, counts.indices, counts.indptr), shape=counts.shape)

    def _by_slide(self, block: ProfileBlock) -> Iterator[tuple[str, slice | NDArray[np.bool_]]]:
        """Each slide of a block, and which of its values are of it."""
        names, of_cells = np.unique(self._slides_of(block), return_inverse=True)
        if len(names) == 1:
            yield str(names[0]), slice(None)
            return
        of_values = np.repeat(of_cells, np.diff(block.counts.indptr))
        for number, name in enumerate(names.tolist()):
            yield name, of_values == number

    def _known(self, gene_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """The model's own means of genes, NaN where it has none."""
        known = self.statistics.get("gene_mean")
        return np.full(len(gene_ids), np.nan) if known is None else known[gene_ids]

    def _slides_of(self, block: ProfileBlock) -> NDArray[np.str_]:
        """Name of each cell's slide, (n_cells,)."""
        if self.slide_key is None:
            return np.full(block.n_cells, "")
        if self.slide_key not in block.obs:
            raise ValueError(f"slide_key={self.slide_key!r} is no column of obs. There are: {', '.join(block.obs)}.")
        column = block.obs[self.slide_key]
        if column.isna().any():
            first = ", ".join(map(str, block.obs.index[column.isna()][:5]))
            raise ValueError(f"Cells have no {self.slide_key!r} and so no slide (first: {first}). Give them one.")
        return column.astype(str).to_numpy(str)

    def _places(self, block: ProfileBlock) -> NDArray[np.float32]:
        """Coordinates of each cell, (n_cells, 2)."""
        names = list(self.coordinates or ())
        if len(names) != 2 or not set(names) <= set(block.obs):
            raise ValueError(f"coordinates={names} must be two columns of obs. It has: {', '.join(block.obs)}.")
        places = block.obs[names].to_numpy(np.float32)
        lost = ~np.isfinite(places).all(1)
        if lost.any():
            first = ", ".join(map(str, block.obs.index[lost][:5]))
            raise ValueError(f"Cells have no place (first: {first}): their {names[0]} or {names[1]} is no number.")
        return places


def _number(name: str) -> int:
    """Number of a slide, from its name alone, so that blocks and files agree."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


SCHEME = ScGPTSpatialScheme
