"""Genes that a model was not trained on: new rows of its embedding, so that pretraining can go on with them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from scfm_hf.cells import CellMatrix
from scfm_hf.errors import CompatibilityError, GeneIdError, VocabularyError
from scfm_hf.genes import GeneVocabulary, recognise_id_kind
from scfm_hf.models.registry import family_of
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.tokenization.scheme import scheme_class
from scfm_hf.tokenization.statistics import nonzero_medians

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

#: How the row of a new gene begins: as the mean of all genes, as that of the genes that go with it in some cells, or
#: as that of the genes named for it.
Beginning = Literal["mean", "neighbours"] | Mapping[str, "Sequence[str]"]

# Cells that neighbours are looked for in, and genes whose rows are averaged.
_CELLS_FOR_NEIGHBOURS, _N_NEIGHBOURS = 2000, 10
# Part of the spread of the rows by which new ones differ, so that no two genes are the same.
_NOISE = 0.1


def extend_vocabulary(
    model: PreTrainedModel,
    tokenizer: CellTokenizer,
    genes: Sequence[str],
    *,
    statistics: Mapping[str, Mapping[str, float]] | None = None,
    cells: AnnData | None = None,
    gene_column: str | None = None,
    init: Beginning = "mean",
    seed: int = 0,
) -> CellTokenizer:
    """Teach a model and its tokenizer further genes, which then have to be trained.

    The rows of the known genes, and so the results of cells that express no new gene, stay as they are, bit by bit.
    Heads that predict one value a gene of the original's list (``config.num_genes``) keep to that list.

    Parameters
    ----------
    model
        Any model of a family whose genes are rows of an embedding; changed in place. Save it with the new tokenizer.
    tokenizer
        Its tokenizer; not changed.
    genes
        The new genes, named as the vocabulary names its own.
    statistics
        By name (``median``, ...), the number of each new gene, where the scheme needs some.
    cells
        Raw counts of cells that express the new genes: medians that ``statistics`` lacks are taken of them, and
        ``init="neighbours"`` looks at them.
    gene_column
        Column of var that names the genes of ``cells``.
    init
        ``mean`` of the rows of all genes; ``neighbours``: mean of the ten genes whose log expression correlates best in
        ``cells``; or new gene -> known genes that are like it, such as its orthologs. A little noise tells them apart.
    seed
        Of the noise.

    Returns
    -------
    The tokenizer of all genes, old and new.

    Raises
    ------
    CompatibilityError
        If the family's genes are no rows of an embedding (proteins), or every gene is a part of every cell.
    VocabularyError
        If a gene is known already or named twice, or a statistic that its scheme needs is missing.
    GeneIdError
        If the genes are named in another way than the vocabulary's.
    """
    refuse_fixed_genes(model)
    extended = extended_tokenizer(tokenizer, genes, statistics=statistics, cells=cells, gene_column=gene_column)
    grow_embedding(model, tokenizer, extended, init=init, cells=cells, gene_column=gene_column, seed=seed)
    return extended


def extended_tokenizer(
    tokenizer: CellTokenizer,
    genes: Sequence[str],
    *,
    statistics: Mapping[str, Mapping[str, float]] | None = None,
    cells: AnnData | None = None,
    gene_column: str | None = None,
) -> CellTokenizer:
    """A tokenizer that knows further genes, behind all tokens that there are; see :func:`extend_vocabulary`."""
    genes, old = list(map(str, genes)), tokenizer.vocabulary
    _refuse_names(genes, old)
    options = tokenizer.init_kwargs["cell_options"]
    given = dict(statistics or {})
    needed = scheme_class(options["scheme"]).needs
    if cells is not None and "median" in needed and "median" not in given:
        given["median"] = _medians(cells, genes, gene_column, tokenizer)
    for name in needed:
        lacking = [gene for gene in genes if not np.isfinite(given.get(name, {}).get(gene, np.nan))]
        if lacking:
            raise VocabularyError(
                f"The scheme {options['scheme']!r} needs the {name} of every gene; {len(lacking)} new ones have none "
                f"(first: {', '.join(lacking[:5])}). Give statistics={{{name!r}: {{gene: number}}}}"
                + (", or cells= that express them." if name == "median" else ".")
            )
    numbers = {
        name: np.append(values, [given.get(name, {}).get(gene, np.nan) for gene in genes])
        for name, values in tokenizer.statistics.items()
    }
    vocabulary = GeneVocabulary(
        [*old.tokens, *genes], special_tokens=old.special_tokens, id_kind=old.id_kind, species=old.species
    )
    limit = tokenizer.model_max_length
    matching = dict(tokenizer.init_kwargs.get("matching", {}))
    if "use_tables" in matching:
        matching["use_gene_tables"] = matching.pop("use_tables")
    made = CellTokenizer.from_vocabulary(
        vocabulary,
        scheme=options["scheme"],
        statistics=numbers,
        identifiers=tokenizer.identifiers,
        max_length=limit if limit < np.iinfo(np.int64).max else None,
        **matching,
        **options.get("options", {}),
    )
    _refuse_changed_cells(tokenizer, made, genes)
    return made


def grow_embedding(
    model: PreTrainedModel,
    tokenizer: CellTokenizer,
    extended: CellTokenizer,
    *,
    init: Beginning = "mean",
    cells: AnnData | None = None,
    gene_column: str | None = None,
    seed: int = 0,
) -> None:
    """Give a model the rows of the genes by which a tokenizer was extended; see :func:`extend_vocabulary`."""
    refuse_fixed_genes(model)
    old, new = tokenizer.vocabulary, extended.vocabulary
    genes = list(new.tokens[len(old) :])
    like = _like(init, genes, old, extended, cells, gene_column)
    size = model.get_input_embeddings().num_embeddings
    if size > len(new):
        raise CompatibilityError(f"The embedding of the model has {size} rows already, the vocabulary {len(new)}.")
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.resize_token_embeddings(len(new), mean_resizing=False)
    gene_rows = torch.from_numpy(old.ids(old.gene_tokens))
    generator = torch.Generator().manual_seed(seed)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = {id(weight): weight for layer in layers for weight in _tables_of(layer, len(new))}
    for weight in weights.values():
        _fill(weight, len(old), gene_rows, like, generator)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    body = getattr(model, model.base_model_prefix, model)
    for config in {id(one): one for one in (model.config, body.config)}.values():
        config.vocab_size, config.vocabulary_digest = len(new), new.digest


def refuse_fixed_genes(model: PreTrainedModel) -> None:
    """Raise CompatibilityError for a family whose genes are no rows of an embedding, and say what adds genes there."""
    if isinstance(model.get_input_embeddings(), nn.Embedding):
        return
    spec = family_of(model)
    place = f"{spec.package}.species_{spec.name}"
    way = "has no way to add one"
    if importlib.util.find_spec(place) is not None:
        adding = [name for name in vars(importlib.import_module(place)) if name.startswith("add_")]
        way = f"is added with the vector of its protein: {place}.{adding[0]}"
    raise CompatibilityError(
        f"A gene of {spec.title} is the vector of its protein, no row that trains; a new one {way}."
    )


def _refuse_names(genes: list[str], old: GeneVocabulary) -> None:
    if not genes:
        raise VocabularyError("There is no gene to add.")
    known = [gene for gene in genes if gene in old]
    repeated = sorted({gene for gene in genes if genes.count(gene) > 1}) if len(set(genes)) < len(genes) else []
    for found, what in ((known, "are known to the model already"), (repeated, "are named more than once")):
        if found:
            raise VocabularyError(f"{len(found)} genes {what} (first: {', '.join(found[:5])}). Leave them out.")
    kind = recognise_id_kind(genes)
    if "other" not in (kind, old.id_kind) and kind != old.id_kind:
        raise GeneIdError(
            f"The new genes are named by {kind.replace('_', ' ')} (first: {', '.join(genes[:3])}), those of the "
            f"vocabulary by {old.id_kind.replace('_', ' ')}. Name them alike."
        )


def _medians(cells: AnnData, genes: list[str], gene_column: str | None, tokenizer: CellTokenizer) -> dict[str, float]:
    target = {"target_sum": float(tokenizer.init_kwargs["cell_options"].get("options", {}).get("target_sum", 10_000.0))}
    matrix = CellMatrix(cells, gene_column=gene_column)
    medians, _ = nonzero_medians(matrix, **target)
    found = dict(zip(map(str, matrix.gene_names), medians.tolist(), strict=True))
    return {gene: found.get(gene, np.nan) for gene in genes}


def _refuse_changed_cells(before: CellTokenizer, after: CellTokenizer, genes: list[str]) -> None:
    """Raise unless cells without new genes are what they were, and each new gene can come into a cell."""
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    known = list(before.scheme().gene_vocabulary.gene_tokens[:20])

    def encoded(tokenizer: CellTokenizer, names: list[str], of_cell: list[float]) -> dict[str, Any]:
        cell = AnnData(csr_matrix(np.array([of_cell], np.float32)))
        cell.var_names, cell.obs_names = names, ["cell"]
        return dict(tokenizer(cell, min_overlap=0.0))

    counts = [float(1 + place % 5) for place in range(len(known))]
    try:
        one, other = encoded(before, known, counts), encoded(after, [*known, *genes], [*counts, *[0.0] * len(genes)])
    except (TypeError, KeyError, ValueError):
        return  # a scheme that wants more than counts
    if one != other:
        raise CompatibilityError(
            "Every gene of the vocabulary is a part of every cell of this model, expressed or not: with more genes all "
            "results would change. Train one from scratch with the whole vocabulary."
        )
    ids, wanted = set(), set(after.vocabulary.ids(genes).tolist())
    first = next(iter(one))
    step = max(1, min(len(genes), after.model_max_length // 2))
    for start in range(0, len(genes), step):
        some = genes[start : start + step]
        ids |= set(np.ravel(encoded(after, [*known[:1], *some], [1.0, *[3.0] * len(some)])[first]).tolist())
    unused = [gene for gene, token in zip(genes, after.vocabulary.ids(genes).tolist(), strict=True) if token not in ids]
    if wanted - ids:
        statistics = ", ".join(before.statistics) or "none"
        raise VocabularyError(
            f"{len(unused)} new genes would never be a token (first: {', '.join(unused[:5])}): their statistics are "
            f"missing. The tokenizer has: {statistics}. Give them with statistics=."
        )


def _like(
    init: Beginning,
    genes: list[str],
    old: GeneVocabulary,
    extended: CellTokenizer,
    cells: AnnData | None,
    gene_column: str | None,
) -> list[NDArray[np.int64]]:
    """For each new gene the ids of known genes that it begins like; none for the mean of all."""
    if init == "mean":
        return [np.empty(0, np.int64)] * len(genes)
    if init == "neighbours":
        if cells is None:
            raise ValueError('init="neighbours" needs cells=, in which the new genes and known ones are expressed.')
        return _neighbours(cells, genes, old, extended, gene_column)
    if not isinstance(init, Mapping):
        raise ValueError(f"init={init!r} is neither 'mean' nor 'neighbours', nor a mapping from genes to known genes.")
    made = []
    for gene in genes:
        ids = old.ids(init.get(gene, ()))
        if (ids < 0).any():
            raise VocabularyError(f"init names a gene for {gene} that the vocabulary does not know. Leave it out.")
        made.append(ids)
    return made


def _neighbours(
    cells: AnnData, genes: list[str], old: GeneVocabulary, extended: CellTokenizer, gene_column: str | None
) -> list[NDArray[np.int64]]:
    """Known genes whose log expression correlates best with each new gene's."""
    n_cells = min(cells.n_obs, _CELLS_FOR_NEIGHBOURS)
    rows = np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:n_cells])
    matrix = CellMatrix(cells[rows], gene_column=gene_column)
    ids = extended.mapper.map(list(map(str, matrix.gene_names))).indices
    counts = np.concatenate([block.counts.astype(np.float32).toarray() for block in matrix.blocks()])
    counts = np.log1p(counts * (10_000 / np.maximum(counts.sum(1, keepdims=True), 1)))
    counts -= counts.mean(0)
    norms = np.linalg.norm(counts, axis=0)
    usable = (ids >= 0) & (norms > 0) & ((counts > 0).sum(0) >= 3)
    counts, ids = counts[:, usable] / norms[usable], ids[usable]
    is_known = (ids < len(old)) & np.isin(ids, old.ids(old.gene_tokens))
    made = []
    for gene in genes:
        place = np.flatnonzero(ids == extended.vocabulary.token_to_id[gene])
        if not len(place) or not is_known.any():
            made.append(np.empty(0, np.int64))
            continue
        correlation = counts[:, is_known].T @ counts[:, place[0]]
        made.append(ids[is_known][np.argsort(-correlation, kind="stable")[:_N_NEIGHBOURS]])
    return made


def _tables_of(layer: Any, n_rows: int) -> list[nn.Parameter]:
    """Parameters of a layer that have a row a gene."""
    if layer is None:
        return []
    return [parameter for parameter in layer.parameters(recurse=False) if len(parameter) == n_rows]


@torch.no_grad()
def _fill(
    weight: nn.Parameter,
    n_old: int,
    gene_rows: torch.Tensor,
    like: list[NDArray[np.int64]],
    generator: torch.Generator,
) -> None:
    """Set the rows behind the first ``n_old``."""
    known = weight[gene_rows.to(weight.device)].float()
    mean, spread = known.mean(0), known.std(0) * _NOISE
    for row, ids in enumerate(like, start=n_old):
        begun = weight[torch.from_numpy(ids).to(weight.device)].float().mean(0) if len(ids) else mean
        noise = torch.randn(begun.shape, generator=generator).to(begun)
        weight[row] = (begun + spread * noise).to(weight.dtype)
