"""A new species for a UCE: the vectors of its proteins, and where its genes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.side_tables import SideTable
from scfm_hf.models.uce.genes_uce import chromosome_tokens, distinct_symbols, gene_places, gene_tokens, place_statistics
from scfm_hf.models.uce.proteins_uce import part_name
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.models.uce.modeling_uce import UcePreTrainedModel


def add_species(
    model: UcePreTrainedModel,
    tokenizer: CellTokenizer,
    species: str,
    *,
    proteins: Mapping[str, ArrayLike | Tensor],
    places: pd.DataFrame,
    seed: int = 0,
    chromosome_vectors: NDArray[Any] | Tensor | None = None,
) -> CellTokenizer:
    """Teach a model and its tokenizer the genes of a further species; no weight changes.

    The vectors get a file of their own beside the weights: those of the other species are neither read nor copied into
    memory. Save both afterwards.

    Parameters
    ----------
    model
        Any UCE model; it is changed.
    tokenizer
        Its tokenizer; it is left as it is.
    species
        Name of the species, such as ``"rat"``; one word in lower case.
    proteins
        Gene symbol -> vector of its protein, (token_dim,), by the protein language model that the others are from
        (ESM2 for the released models).
    places
        Columns ``gene_symbol``, ``chromosome`` and ``start``, a line a gene. Genes that it lacks are left out of
        sentences.
    seed
        Of the chromosomes' vectors, standard normal draws. The original takes the taxonomy id of the species.
    chromosome_vectors
        Them in place of draws, (n_chromosomes, token_dim), chromosomes sorted by name as text.

    Returns
    -------
    A tokenizer that knows the species too, and takes cells for it unless ``species=`` says otherwise.

    Raises
    ------
    ValueError
        If the name is taken or no single word, or vectors have another width.
    CheckpointError
        If ``places`` lacks a column.
    """
    body: Any = getattr(model, model.base_model_prefix, model)
    vocabulary, config = tokenizer.vocabulary, body.config
    if species in vocabulary.species or not species.isidentifier():
        raise ValueError(
            f"{species!r} cannot be added: the tokenizer has {', '.join(vocabulary.species)}, and a name is one word."
        )
    symbols = distinct_symbols(proteins)
    located = gene_places(places.assign(species=species), where="places")
    rows = _vectors([proteins[symbol] for symbol in symbols], config.token_dim, "The proteins")
    if chromosome_vectors is None:
        generator = torch.Generator().manual_seed(seed)
        chromosome_vectors = torch.randn(len(located.chromosomes), config.token_dim, generator=generator)
    drawn = _vectors(list(chromosome_vectors), config.token_dim, "The chromosomes")
    if len(drawn) != len(located.chromosomes):
        raise ValueError(f"There are {len(located.chromosomes)} chromosomes and {len(drawn)} vectors of them.")
    added = [*gene_tokens(species, symbols, len(symbols)), *chromosome_tokens(located.chromosomes)]
    first = len(vocabulary)
    statistics = {
        name: np.concatenate([tokenizer.statistics[name], values])
        for name, values in place_statistics(added, located, first + len(symbols)).items()
    }
    grown = _with_tokens(tokenizer, added, species, statistics)
    _append(body, np.concatenate([rows, drawn]))
    for one in {id(model.config): model.config, id(config): config}.values():
        one.table_size = first + len(added)
        one.added_rows = [*(one.added_rows or []), len(added)]
        one.vocabulary_digest = grown.vocabulary_digest
    return grown


def _vectors(rows: list[Any], width: int, what: str) -> NDArray[np.float32]:
    """Vectors as a table, float32, (n_rows, width)."""
    arrays = [np.asarray(row.detach().cpu() if isinstance(row, Tensor) else row, np.float32) for row in rows]
    wrong = {array.shape for array in arrays} - {(width,)}
    if wrong or not arrays:
        raise ValueError(f"{what}: the model's vectors have the shape {(width,)}; got {sorted(wrong) or 'none'}.")
    return np.stack(arrays)


def _append(body: Any, rows: NDArray[np.float32]) -> None:
    """One more file for the table."""
    parts = body.embeddings.table.parts
    part = SideTable(part_name(len(parts)), *rows.shape)
    part.set_rows(rows)
    parts.append(part)


def _with_tokens(
    tokenizer: CellTokenizer, added: list[str], species: str, statistics: Mapping[str, NDArray[np.float64]]
) -> CellTokenizer:
    """The tokenizer with further tokens."""
    known, kept = tokenizer.vocabulary, tokenizer.init_kwargs
    vocabulary = GeneVocabulary(
        [*known.tokens, *added],
        special_tokens=known.special_tokens,
        id_kind=known.id_kind,
        species=(*known.species, species),
    )
    options = {**kept["cell_options"]["options"], "species": species}
    return CellTokenizer.from_vocabulary(
        vocabulary,
        scheme="uce",
        statistics=statistics,
        identifiers=tokenizer.identifiers,
        max_length=tokenizer.model_max_length,
        case_sensitive=kept["matching"]["case_sensitive"],
        strip_versions=kept["matching"]["strip_versions"],
        use_gene_tables=kept["matching"]["use_tables"],
        **options,
    )
