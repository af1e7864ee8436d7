"""What a pretraining run is made of: tokenizer, streams, encoder and objectives, as its configuration says."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.errors import ConfigurationError, ScfmError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.tasks.pretraining_genes import READING, counts_of_corpus, grow, with_new_genes
from scfm_hf.tokenization import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from scfm_hf.data.stream import CellStream
    from scfm_hf.models.registry import FamilySpec
    from scfm_hf.tasks.pretraining_config import PretrainingConfig
    from scfm_hf.tokenization import CellTokenizer

#: Special tokens of a tokenizer that is built here, by role.
_SPECIAL_TOKENS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
#: Cells whose counts are held in memory for the medians of genes, drawn from all of the corpus.
_CELLS_FOR_MEDIANS = 20_000
#: Objectives that need nothing but the inputs of the encoder: cells are then encoded as they are read, many at a time.
_OF_ENCODED_CELLS = frozenset(
    {"adversarial_batch", "masked_gene", "metadata_tokens", "multi_task", "next_gene", "triplets"}
)


def make_tokenizer(config: PretrainingConfig) -> CellTokenizer:
    """The tokenizer: an existing one, or one built from the corpus.

    Raises
    ------
    ConfigurationError
        If the scheme needs statistics that are not computed here.
    """
    from transformers import AutoTokenizer

    described = dict(config.tokenizer)
    if not described or "from" in described:
        source = described if described else config.model
        revision = {"revision": source["revision"]} if source.get("revision") else {}
        found: CellTokenizer = AutoTokenizer.from_pretrained(source["from"], **revision)
        return with_new_genes(config, found) if config.model.get("new_genes") else found
    return _built(config, **described)


def _built(
    config: PretrainingConfig,
    *,
    scheme: str,
    min_cells: int = 10,
    max_length: int | None = None,
    species: str | None = None,
    options: dict[str, Any] | None = None,
    counting: dict[str, Any] | None = None,
) -> CellTokenizer:
    from scfm_hf.genes import recognise_species
    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.tokenization.scheme import scheme_class

    kind = scheme_class(scheme)
    needed = set(kind.needs)
    if needed - {"median"} or counting is not None:
        described = {"scheme": scheme, "min_cells": min_cells, "max_length": max_length, "gene_species": species}
        return _of_all_cells(config, counting or {}, **described, **(options or {}))
    corpus = counts_of_corpus(config)
    n_cells, medians = gene_statistics(corpus, medians="median" in needed)
    kept = np.flatnonzero(n_cells >= min_cells)
    names = [corpus.vocabulary.tokens[gene] for gene in kept]
    found = species or recognise_species(names)
    vocabulary = GeneVocabulary(
        [*_SPECIAL_TOKENS.values(), *names],
        special_tokens=_SPECIAL_TOKENS,
        id_kind=corpus.vocabulary.id_kind,
        species=(found,) if found else (),
    )
    statistics = {"median": np.concatenate([np.full(len(_SPECIAL_TOKENS), np.nan), medians[kept]])} if needed else {}
    return CellTokenizer.from_vocabulary(
        vocabulary,
        scheme=scheme,
        statistics=statistics,
        max_length=max_length,
        **{**kind.options_of(_SPECIAL_TOKENS), **(options or {})},
    )


def _of_all_cells(config: PretrainingConfig, counting: dict[str, Any], **described: Any) -> CellTokenizer:
    """A tokenizer from statistics of all cells, as many schemes need (extra ``curation``)."""
    from scfm_hf.data.corpus_tokenizer import tokenizer_from_corpus

    reading = {name: value for name, value in config.corpus_options.items() if name in READING and name != "seed"}
    try:
        return tokenizer_from_corpus(config.files, counting={"progress": False, **reading, **counting}, **described)
    except ScfmError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"tokenizer: {error}") from error


def gene_statistics(
    corpus: CellStream, *, medians: bool = True, target_sum: float = 10_000.0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How many cells express each gene, and the median of its scaled counts over these.

    Parameters
    ----------
    corpus
        Cells as ``gene_ids`` and ``counts``.
    medians
        Whether medians are wanted: of 20,000 cells at most, drawn from all files.
    target_sum
        Total that a cell is scaled to.

    Returns
    -------
    Numbers of cells, int64, (n_vocabulary,), and medians, float64, NaN where no cell expresses the gene.
    """
    n_genes = len(corpus.vocabulary)
    n_cells, ids, values, seen = np.zeros(n_genes, np.int64), [], [], 0
    for batch in corpus.batches(1024):
        genes, counts = batch["gene_ids"], batch["counts"]
        assert isinstance(genes, Ragged)
        assert isinstance(counts, Ragged)
        n_cells += np.bincount(genes.values, minlength=n_genes)
        if medians and seen < _CELLS_FOR_MEDIANS:
            totals = np.add.reduceat(np.append(counts.values, 0), counts.offsets[:-1])
            scale = np.where(counts.lengths > 0, target_sum / np.maximum(totals, 1e-30), 0.0)
            ids.append(genes.values)
            values.append(counts.values * np.repeat(scale, counts.lengths))
            seen += len(counts.lengths)
        elif not medians and seen >= _CELLS_FOR_MEDIANS:
            break
    found = np.full(n_genes, np.nan)
    if ids:
        gene, value = np.concatenate(ids), np.concatenate(values)
        order = np.lexsort((value, gene))
        gene, value = gene[order], value[order]
        present, first, number = np.unique(gene, return_index=True, return_counts=True)
        found[present] = (value[first + (number - 1) // 2] + value[first + number // 2]) / 2
    return n_cells, found


def make_streams(
    config: PretrainingConfig, tokenizer: CellTokenizer, *, batch_size: int
) -> tuple[CellStream, CellStream | None]:
    """The cells to train on, and those that are held out, if any."""
    from scfm_hf.data.cell_files import find_cell_files
    from scfm_hf.data.corpus import load_corpus

    options = config.corpus_options
    wanted = list(dict.fromkeys([*options.pop("columns", ()), *objective_columns(config)]))
    stream = load_corpus(
        [*config.files, *config.validation_files],
        tokenizer=tokenizer,
        encode=not any(_needs_counts(name, options) for name, options in config.objectives.items()),
        columns=wanted,
        cell_ids=True,
        batch_size=batch_size,
        **options,
    )
    if config.validation_files:
        held_out = set(find_cell_files(config.validation_files))
        return stream.split(files=[file.place for file in stream.files if file.place in held_out])
    share = config.corpus.get("validation_share")
    return stream.split(share=share, seed=config.seed) if share else (stream, None)


def _needs_counts(name: str, options: Mapping[str, Any]) -> bool:
    if name == "masked_value":
        return options.get("likelihood", "mse") != "mse"
    return name not in _OF_ENCODED_CELLS


def objective_columns(config: PretrainingConfig) -> list[str]:
    """Columns of obs that the objectives read."""
    from scfm_hf.training.objectives.objective import make_objective

    made = [make_objective(name, options) for name, options in config.objectives.items()]
    return list(dict.fromkeys(column for objective in made for column in objective.annotations))


def make_encoder(config: PretrainingConfig, tokenizer: CellTokenizer) -> PreTrainedModel:
    """A fresh encoder, or the model to go on from.

    Raises
    ------
    ConfigurationError
        If the family cannot have such a configuration.
    """
    from scfm_hf.models.registry import families

    if "from" in config.model:
        model = _loaded(config)
        if config.model.get("new_genes"):
            grow(config, model, tokenizer)
        return model
    spec = families()[config.model["family"]]
    try:
        made = family_config(spec, tokenizer, **(config.model.get("config") or {}))
        return spec.load_class(spec.locate(spec.classes_of("AutoModel")[0])[1])(made)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"model.config: {error}") from error


def family_config(spec: FamilySpec, tokenizer: CellTokenizer, **options: Any) -> Any:
    """Configuration of a family for a tokenizer; what follows from the tokenizer need not be given.

    Parameters
    ----------
    spec
        The family.
    tokenizer
        Gives the size of the vocabulary, its digest, the ids of special tokens and the longest input.
    **options
        Fields of the configuration.
    """
    config_class = spec.load_config_class()
    known = {one.name for one in fields(config_class)}
    vocabulary = tokenizer.vocabulary
    ids = {f"{role}_token_id": vocabulary.token_to_id[token] for role, token in vocabulary.special_tokens.items()}
    implied: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "vocabulary_digest": vocabulary.digest,
        "num_genes": len(vocabulary.gene_tokens),
        **ids,
    }
    if tokenizer.model_max_length < 1_000_000:
        implied["max_position_embeddings"] = tokenizer.model_max_length
    return config_class(**{name: value for name, value in implied.items() if name in known} | options)


def add_tokens_of_metadata(
    config: PretrainingConfig, tokenizer: CellTokenizer, encoder: PreTrainedModel, classes: Mapping[str, Sequence[str]]
) -> None:
    """Give tokenizer and encoder tokens of the annotations that the objective ``metadata_tokens`` reads, in place."""
    from scfm_hf.training.objectives.metadata_tokens import add_metadata_tokens
    from scfm_hf.training.objectives.objective import make_objective

    columns = make_objective("metadata_tokens", config.objectives["metadata_tokens"]).annotations
    add_metadata_tokens(tokenizer, encoder, {column: classes[column] for column in columns})


def _loaded(config: PretrainingConfig) -> PreTrainedModel:
    """The model to go on from, with the family's own pretraining heads where an objective trains them."""
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

    from scfm_hf.models.registry import family_of
    from scfm_hf.training.objectives.objective import make_objective

    source = config.model["from"]
    options = {"revision": config.model["revision"]} if config.model.get("revision") else {}
    found = AutoConfig.from_pretrained(source, **options)
    spec = family_of(found)
    made = [make_objective(name, described) for name, described in config.objectives.items()]
    own = any(objective.own_class(spec.name, found) for objective in made)
    auto = AutoModelForPreTraining if own and spec.classes_of("AutoModelForPreTraining") else AutoModel
    model: PreTrainedModel = auto.from_pretrained(source, **options, **(config.model.get("config") or {}))
    return model
