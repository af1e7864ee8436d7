"""A tokenizer from a corpus of one's own: its genes, and the statistics that the scheme needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.corpus_statistics import CorpusStatistics, corpus_statistics
from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.tokenization.scheme import scheme_class

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_SPECIAL_TOKENS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


def tokenizer_from_corpus(
    corpus: CorpusStatistics | str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    scheme: str = "rank",
    min_cells: int = 10,
    max_length: int | None = 2048,
    gene_species: str | None = None,
    special_tokens: Mapping[str, str] = _SPECIAL_TOKENS,
    extra_tokens: Sequence[str] = (),
    counting: Mapping[str, Any] | None = None,
    **options: Any,
) -> CellTokenizer:
    """Make a tokenizer from cells of one's own, of any species.

    Parameters
    ----------
    corpus
        Statistics, or the files of a corpus, which are then read once.
    scheme
        ``rank`` (Geneformer; medians), ``genecompass`` (medians), ``nicheformer`` (non-zero means of a technology),
        ``cellprofile`` (deviations), ``bin`` (scGPT; no statistics, or with ``edges="corpus"`` bins of the corpus), or
        any other scheme that needs no statistics.
    min_cells
        Genes that fewer cells express are left out.
    max_length
        Most tokens a cell, special ones included; None for no limit.
    gene_species
        Recognised from the names of the genes if not given.
    special_tokens
        Role -> token; they come first.
    extra_tokens
        Further tokens after these, such as ``nicheformer``'s of species, assay and modality.
    counting
        Options of :func:`~scfm_hf.data.corpus_statistics.corpus_statistics`, where files are given; ``groups`` is to
        name the column of the technology for ``nicheformer``, and that of the study for ``cellprofile`` unless each
        file is one. Counts are scaled to the ``target_sum`` of the scheme.
    **options
        Of the scheme.

    Returns
    -------
    A tokenizer like any other: ``save_pretrained``, ``push_to_hub``.

    Raises
    ------
    ValueError
        If the scheme needs statistics that no corpus has, or no gene is left.
    CorpusError
        If a file cannot be used.
    """
    kind = scheme_class(scheme)
    if not isinstance(corpus, CorpusStatistics):
        if any("{group}" in name for name in kind.from_corpus) and not (counting or {}).get("groups"):
            raise ValueError('Say which column of obs has the technology: counting={"groups": "..."}.')
        scaling = {"target_sum": options["target_sum"]} if options.get("target_sum") else {}
        corpus = corpus_statistics(corpus, **{**scaling, **(counting or {})})
    elif counting:
        raise ValueError("The corpus is counted already: counting= goes with files.")
    kept = np.flatnonzero(corpus.n_expressing >= min_cells)
    if not len(kept):
        raise ValueError(f"No gene is expressed by {min_cells} cells or more; the corpus has {corpus.n_cells:,} cells.")
    first = [*special_tokens.values(), *extra_tokens]
    vocabulary = GeneVocabulary(
        [*first, *(corpus.vocabulary.tokens[gene] for gene in kept)],
        special_tokens=dict(special_tokens),
        id_kind=corpus.vocabulary.id_kind,
        species=(gene_species,) if gene_species else corpus.vocabulary.species,
    )
    if kind.from_corpus and options.setdefault("target_sum", corpus.target_sum) != corpus.target_sum:
        raise ValueError(
            f"The counts of the corpus were scaled to {corpus.target_sum:,.0f}, not to {options['target_sum']:,.0f}. "
            "Count it again, or leave target_sum= out."
        )
    if scheme == "bin" and options.get("edges") == "corpus":
        options["edges"] = _edges(corpus, options)
    statistics = {
        name: np.concatenate([np.full(len(first), np.nan), values[kept]])
        for name, values in _statistics(corpus, scheme).items()
    }
    options = {**kind.options_of(special_tokens, corpus.groups), **options}
    return CellTokenizer.from_vocabulary(
        vocabulary, scheme=scheme, statistics=statistics, max_length=max_length, **options
    )


def _statistics(corpus: CorpusStatistics, scheme: str) -> dict[str, NDArray[np.float64]]:
    kind = scheme_class(scheme)
    found: dict[str, NDArray[np.float64]] = {}
    for name, field in kind.from_corpus.items():
        if "{group}" in name:
            found |= {name.format(group=group): getattr(sums, field) for group, sums in corpus.groups.items()}
        else:
            found[name] = getattr(corpus, field)
    if needs := set(kind.needs) - set(found):
        raise ValueError(
            f"The scheme {scheme!r} needs {', '.join(sorted(needs))} of each gene, which no corpus of counts tells."
        )
    return found


def _edges(corpus: CorpusStatistics, options: Mapping[str, Any]) -> list[float]:
    """Edges of the corpus in the values that the scheme bins."""
    if options.get("target_sum") != corpus.target_sum:
        raise ValueError(
            f'edges="corpus" goes with target_sum={corpus.target_sum:g}, as the counts of the corpus were scaled; '
            f"got {options.get('target_sum')}."
        )
    edges = corpus.bin_edges(options.get("n_bins") or 51)
    return (np.log1p(edges) if options.get("log1p") else edges).tolist()
