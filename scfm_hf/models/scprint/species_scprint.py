"""Genes of a new species for an scPRINT: vectors of their proteins, and their places on the genome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scfm_hf.errors import VocabularyError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.scprint.genes_scprint import genome_positions, position_vectors, squeeze
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    import pandas as pd

    from scfm_hf.models.scprint.modeling_scprint import ScPrintPreTrainedModel


def add_genes(
    model: ScPrintPreTrainedModel,
    tokenizer: CellTokenizer,
    *,
    vectors: pd.DataFrame,
    places: pd.DataFrame,
    taxon: int,
    species: str,
) -> CellTokenizer:
    """Teach a model genes that it was not trained on.

    Nothing trains: the tables beside the weights get a row a gene. The vectors must be of the protein language model
    that the checkpoint's are of (ESM-2, 5,120 numbers, mean over the residues), else they mean nothing to the model.

    Parameters
    ----------
    model
        Any model of the family; changed in place. Save it with the new tokenizer.
    tokenizer
        Its tokenizer; not changed.
    vectors
        One line a gene, indexed by Ensembl id; at least as wide as the model, which averages them in equal windows.
    places
        Columns ``chromosome`` and ``start``, indexed by Ensembl id: all genes of the species, for the positions follow
        from the neighbours. Genes without a vector are passed over.
    taxon
        NCBI taxon of the species, such as 7955 of zebrafish.
    species
        Its name.

    Returns
    -------
    The tokenizer of all genes, old and new.

    Raises
    ------
    VocabularyError
        If a gene is known already or repeated, has no place, or its vector is not finite.
    ValueError
        If the vectors are narrower than the model.
    """
    genes = vectors.index.astype(str)
    _refuse(genes[genes.duplicated()], "stand in the table of vectors more than once")
    _refuse(genes[genes.isin(tokenizer.vocabulary.tokens)], "are known to the model already")
    _refuse(genes[~genes.isin(places.index)], "have no place in the table of chromosomes and starts")
    rows = torch.from_numpy(vectors.to_numpy(np.float32, copy=True))
    _refuse(genes[~rows.isfinite().all(1).numpy()], "have vectors that are not finite")
    tables = model.get_input_embeddings()
    width = tables.vectors.n_columns
    if rows.shape[1] < width:
        raise ValueError(f"The vectors have {rows.shape[1]} numbers, the table of the model {width}: too few.")
    numbers = dict(zip(places.index, genome_positions(places["chromosome"], places["start"]).tolist(), strict=True))
    positions = position_vectors([numbers[gene] for gene in genes], tables.size)
    tables.grow(squeeze(rows, width).numpy(), positions)

    old = tokenizer.vocabulary
    vocabulary = GeneVocabulary(
        [*old.tokens, *genes],
        special_tokens=old.special_tokens,
        id_kind=old.id_kind,
        species=(*old.species, species),
    )
    made = CellTokenizer.from_vocabulary(
        vocabulary,
        scheme="scprint",
        statistics={"taxon": np.append(tokenizer.statistics["taxon"], np.full(len(genes), float(taxon)))},
        identifiers=tokenizer.identifiers,
        max_length=tokenizer.model_max_length,
        **tokenizer.init_kwargs["cell_options"].get("options", {}),
    )
    model.config.vocab_size = len(vocabulary)
    model.config.vocabulary_digest = made.vocabulary_digest
    return made


def _refuse(genes: pd.Index, what: str) -> None:
    if len(genes):
        raise VocabularyError(f"{len(genes)} genes {what} (first: {', '.join(genes[:5])}).")
