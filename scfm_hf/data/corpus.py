"""``load_corpus``: many files of cells, brought to one vocabulary, as a stream to train on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfm_hf.cells import choose_gene_column
from scfm_hf.cells.matrix import names_in
from scfm_hf.data.annotation import CellAnnotation
from scfm_hf.data.cell_files import StoredCells, find_cell_files
from scfm_hf.data.corpus_file import CorpusFile, Reading, corpus_file, row_lengths, sampled_cells
from scfm_hf.data.counts import counts_of
from scfm_hf.data.order import CorpusOrder, LengthBuckets
from scfm_hf.data.sampling import balanced_weights
from scfm_hf.data.stream import CellStream
from scfm_hf.data.window_reader import Encoder, WindowReader
from scfm_hf.errors import CorpusError
from scfm_hf.genes import GeneMapper, GeneVocabulary, is_ensembl_id, recognise_id_kind, recognise_species, strip_version
from scfm_hf.tokenization.scheme import Scheme

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from scfm_hf.tokenization import CellTokenizer

# Rows read at a time where all values of a file are looked at.
_CHECKED_ROWS = 256
# Most tokens of a cell where nothing limits them.
_LONGEST = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """What became of the files of a corpus; ``str`` gives a paragraph to read.

    Parameters
    ----------
    files
        One line a file that is used: ``file``, ``n_cells``, ``n_genes``, ``n_matched``, ``share_of_counts`` (of some of
        its cells), ``gene_column``, ``species``.
    skipped
        File that is not used -> why.
    """

    files: pd.DataFrame
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        table = self.files
        text = [f"{int(table['n_cells'].sum()):,} cells in {len(table):,} files."]
        if len(table):
            worst = table.loc[(table["n_matched"] / table["n_genes"]).idxmin()]
            text.append(
                f"Fewest genes in the vocabulary: {worst['n_matched']:,} of {worst['n_genes']:,} in {worst['file']}."
            )
        if self.skipped:
            text.append(f"{len(self.skipped)} files were skipped:")
            text += [f"\n- {reason}" for reason in self.skipped.values()]
        return " ".join(text)


def load_corpus(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    tokenizer: CellTokenizer | None = None,
    vocabulary: GeneVocabulary | None = None,
    encode: bool = True,
    labels: str | None = None,
    columns: Sequence[str] = (),
    cell_ids: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    min_overlap: float | None = None,
    max_length: int | None = None,
    balance: str | Sequence[str] = (),
    temperature: float = 2.0,
    weights: ArrayLike | None = None,
    keep: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    block_size: int = 64,
    window_size: int = 8192,
    batch_size: int | None = None,
    bucket_batches: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    check: Literal["sample", "all"] = "sample",
    **options: Any,
) -> CellStream:
    """Load a corpus of many files as one stream of cells.

    Files may order and name their genes as they like: all are brought to one vocabulary. Their cells are read by blocks
    when they are needed, never a whole file (but for text, ``matrix.mtx``), and mixed; see
    :class:`scfm_hf.data.order.CorpusOrder` for how.

    Parameters
    ----------
    files
        Files (``.h5ad``, ``.zarr``, 10x ``.h5``), folders that hold such files or a 10x ``matrix.mtx``, or patterns
        with ``*``; local paths or URLs of fsspec (``hf://``, ``s3://``, ...).
    tokenizer
        Cells then come as inputs of its model (``input_ids``, ``attention_mask``, ``values``, ...).
    encode
        Whether the tokenizer encodes the cells. If not, they come as ``gene_ids`` and ``counts`` over its vocabulary.
    vocabulary
        Without a tokenizer: cells come as ``gene_ids`` (ids in the vocabulary, int32, ascending) and ``counts``
        (float32). None takes all genes of the files, by Ensembl id if every file has these, else by symbol.
    labels
        A column of obs that becomes the number ``labels``; its classes, those of all files, are sorted.
    columns
        Further columns of obs to take along.
    cell_ids
        Whether cells carry their name as ``cell_id``.
    layer, use_raw, gene_column
        Where the counts and the names of genes are in every file; X and the column that fits if not given.
    min_overlap
        Least share of the genes, and of the counts, of each file that the vocabulary must know. None: what the
        tokenizer's scheme asks for, which is a half for most; a half without a tokenizer.
    max_length
        Most tokens a cell; None for the tokenizer's own limit.
    balance
        Columns of obs: cells that agree in them are a group, and a group of n cells is seen in proportion to
        n^(1 / temperature). An epoch keeps its length: cells of small groups come several times, of large ones not in
        every epoch.
    temperature
        1 changes nothing, infinity shows all groups equally often.
    weights
        How often to show each cell, relative to the others, (n_cells,), files in order; multiplies ``balance``.
    keep
        File -> whether each of its cells is kept, such as :meth:`scfm_hf.data.curation.Curation.keep` gives; the others
        never come, and an epoch is as much shorter. Files that are not named are kept whole.
    seed, block_size, window_size
        Of the order: rows read together, and cells mixed (and held in memory) at a time.
    batch_size
        Cells that the loader takes at a time, needed with several workers or ranks.
    bucket_batches
        Sort the cells of so many batches by their number of values, so that a batch holds cells of like length and
        little padding; the batches then come in random order. It needs ``batch_size``, and is part of the order.
    on_error
        ``"skip"`` leaves out files that cannot be used and lists them in the report.
    check
        ``"all"`` looks at every value of every file now; ``"sample"`` at some cells of each now, and at all others when
        they are read.
    **options
        Options of the tokenizer's scheme.

    Returns
    -------
    A torch ``IterableDataset``, for Trainer as it is; ``report`` says what became of the files.

    Raises
    ------
    CorpusError
        If a file is missing, damaged, empty, not of counts, of genes that are not the vocabulary's (such as another
        species'), or lacks a column; or no file is left.
    ValueError
        If an option has a value that it cannot have, or a column the name of what cells hold.
    """
    if tokenizer is not None and vocabulary is not None:
        raise ValueError("Give tokenizer= or vocabulary=, not both: a tokenizer has a vocabulary.")
    if bucket_batches and batch_size is None:
        raise ValueError("bucket_batches= needs batch_size=, the number of cells that the loader takes at a time.")
    _refuse_values(on_error, check, batch_size=batch_size, max_length=max_length, bucket_batches=bucket_batches)
    if options and (tokenizer is None or not encode):
        raise TypeError(f"Unknown options {', '.join(options)}; options of a scheme need a tokenizer=.")
    if min_overlap is None:
        min_overlap = Scheme.min_overlap if tokenizer is None else tokenizer.scheme().min_overlap
    own = ["gene_ids", "counts"]
    if tokenizer is not None and encode:
        scheme = tokenizer.scheme(**options)  # refuses unknown options now
        if scheme.looks_ahead:
            raise ValueError(
                "The tokenizer looks at all cells of a file before it encodes one, which a stream cannot wait for. "
                "Tokenise each file with tokenizer.to_dataset, or scfm tokenize."
            )
        own = [*scheme.columns, "attention_mask"]
    own += (["cell_id"] if cell_ids else []) + (["labels"] if labels else [])
    _refuse_columns(columns, own)
    reading = Reading(layer=layer, use_raw=use_raw, gene_column=gene_column, min_overlap=min_overlap)
    balance = [balance] if isinstance(balance, str) else list(balance)
    wanted = list(dict.fromkeys([*([labels] if labels else []), *columns, *balance]))
    skipped: dict[str, str] = {}
    places = find_cell_files(files)

    def usable(step: Callable[[StoredCells], Any]) -> dict[str, Any]:
        """What a step gives for each file that is not skipped."""
        made = {}
        for place in places:
            if place in skipped:
                continue
            try:
                cells = reading.open(place)
                try:
                    made[place] = step(cells)
                finally:
                    cells.close()
            except CorpusError as error:
                if on_error == "raise":
                    raise CorpusError(f'{error} on_error="skip" leaves such files out.') from error
                skipped[place] = str(error)
        if not made:
            raise CorpusError(f"None of {len(places)} files can be used. The first: {next(iter(skipped.values()))}")
        return made

    if tokenizer is not None:
        vocabulary, mapper = tokenizer.vocabulary, tokenizer.mapper
    else:
        if vocabulary is None:
            vocabulary = _common_vocabulary(usable(lambda cells: _gene_names(cells, gene_column)))
        mapper = GeneMapper(vocabulary)

    def opened(cells: StoredCells) -> tuple[CorpusFile, pd.DataFrame, NDArray[np.integer] | None]:
        try:
            obs = cells.obs(wanted)
        except CorpusError as error:
            raise CorpusError(f"{cells.place}: {error}.") from error
        if labels and obs[labels].isna().any():
            raise CorpusError(f"{cells.place}: {int(obs[labels].isna().sum()):,} cells have no {labels!r}.")
        if check == "all":
            for start in range(0, cells.n_cells, _CHECKED_ROWS):
                counts_of(cells, start, min(start + _CHECKED_ROWS, cells.n_cells))
        return corpus_file(cells, mapper, reading), obs, row_lengths(cells) if bucket_batches else None

    used = usable(opened)
    corpus_files = [file for file, _, _ in used.values()]
    obs = {name: [table[name] for _, table, _ in used.values()] for name in wanted}
    limit = max_length or min(tokenizer.model_max_length if tokenizer is not None else _LONGEST, _LONGEST)
    buckets = None
    if bucket_batches and batch_size is not None:
        lengths = np.concatenate([lengths for *_, lengths in used.values() if lengths is not None])
        buckets = LengthBuckets(np.minimum(lengths, limit), batch_size, bucket_batches)
    order = CorpusOrder(
        [file.n_cells for file in corpus_files],
        block_size=block_size,
        window_size=window_size,
        seed=seed,
        buckets=buckets,
    )
    annotation = {name: _annotation(obs[name]) for name in columns}
    if labels:
        annotation["labels"] = _annotation(obs[labels], as_code=True)
    encoder = None
    if tokenizer is not None and encode:
        encoder = Encoder(tokenizer=tokenizer, max_length=limit, options=options)
    return CellStream(
        corpus_files,
        WindowReader(corpus_files, reading, encoder=encoder, cell_ids=cell_ids),
        order,
        vocabulary=vocabulary,
        report=CorpusReport(files=_table(corpus_files), skipped=skipped),
        annotation=annotation,
        weights=_weights([obs[name] for name in balance], temperature, weights, int(order.n_cells.sum())),
        keep=None if keep is None else _kept(corpus_files, keep, skipped),
        batch_size=batch_size,
    )


def _refuse_values(on_error: str, check: str, **numbers: int | None) -> None:
    """Refuse words that do not exist and numbers that are too small."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error={on_error!r} is neither "raise" nor "skip".')
    if check not in ("sample", "all"):
        raise ValueError(f'check={check!r} is neither "sample" nor "all".')
    for name, number in numbers.items():
        least = 0 if name == "bucket_batches" else 1
        if number is not None and number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}.")


def _refuse_columns(columns: Sequence[str], own: Sequence[str]) -> None:
    """Refuse columns of obs that would take the place of what a cell holds."""
    if taken := [name for name in columns if name in own]:
        raise ValueError(
            f"columns= asks for {', '.join(map(repr, taken))}, but cells have {', '.join(own)} of their own. Rename "
            "the column of obs."
        )


def _gene_names(cells: StoredCells, gene_column: str | None) -> dict[str, list[str]]:
    """Names that a file has for its genes, by their kind."""
    sample = sampled_cells(cells)
    kinds: dict[str, list[str]] = {}
    for kind in ("ensembl_id", "symbol"):
        column = gene_column or choose_gene_column(sample, id_kind=kind)
        names = names_in(cells.var, column)
        if recognise_id_kind(names) == kind:
            kinds[kind] = names
    if not kinds and gene_column is not None:
        kinds["other"] = names_in(cells.var, gene_column)
    if not kinds:
        names = names_in(cells.var, "var_names")
        raise CorpusError(
            f"{cells.place}: the genes have neither Ensembl ids nor symbols (first: {', '.join(names[:3])}). Name the "
            "column of var that has them with gene_column=, or give a vocabulary=."
        )
    return kinds


def _common_vocabulary(files: Mapping[str, dict[str, list[str]]]) -> GeneVocabulary:
    """All genes of the files, sorted."""
    kind: Literal["ensembl_id", "symbol", "other"] = "symbol"
    if all("ensembl_id" in kinds for kinds in files.values()):
        kind = "ensembl_id"
    elif any("other" in kinds for kinds in files.values()):
        kind = "other"
    species: dict[str, str] = {}
    genes: set[str] = set()
    for place, kinds in files.items():
        names = kinds.get(kind) or next(iter(kinds.values()))
        recognised = recognise_species(names)
        if recognised:
            species.setdefault(recognised, place)
        if kind == "ensembl_id":
            genes |= {strip_version(name) for name in names if is_ensembl_id(name)}
        else:
            genes |= {name for name in (names if kind == "other" else kinds.get(kind, ())) if name}
    if len(species) > 1:
        shown = ", ".join(f"{one} (such as {place})" for one, place in species.items())
        raise CorpusError(
            f"The files are of several species: {shown}. Load them apart, or give a vocabulary= that holds the genes "
            "of all of them."
        )
    return GeneVocabulary(sorted(genes), id_kind=kind, species=tuple(species))


def _annotation(parts: Sequence[pd.Series], *, as_code: bool = False) -> CellAnnotation:
    """One column of obs over all files: numbers as they are, everything else as codes of sorted names."""
    # Truth values of which some are missing have no type of NumPy: they are names.
    lacking = any(pd.api.types.is_bool_dtype(part) and part.hasnans for part in parts)
    if not as_code and not lacking and all(pd.api.types.is_numeric_dtype(part) for part in parts):
        return CellAnnotation(np.concatenate([part.to_numpy() for part in parts]))
    texts = [part.astype("category").cat.rename_categories(str) for part in parts]
    names = sorted({name for text in texts for name in text.cat.remove_unused_categories().cat.categories})
    # In the smallest type that holds them, as there is one a cell of the corpus.
    codes = [text.cat.set_categories(names).cat.codes.to_numpy() for text in texts]
    return CellAnnotation(np.concatenate(codes), tuple(names), as_code)


def _weights(
    balance: Sequence[Sequence[pd.Series]], temperature: float, weights: ArrayLike | None, n_cells: int
) -> NDArray[np.float64] | None:
    made = None
    if balance:
        made = balanced_weights([_annotation(parts, as_code=True).values for parts in balance], temperature=temperature)
    if weights is None:
        return made
    given = np.asarray(weights, np.float64)
    if given.shape != (n_cells,) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise ValueError(
            f"weights must be one finite number of at least 0 for each of the {n_cells:,} cells, not all 0."
        )
    return given if made is None else made * given


def _kept(files: Sequence[CorpusFile], keep: Mapping[str, ArrayLike], skipped: Mapping[str, str]) -> NDArray[np.bool_]:
    """Whether each cell of the corpus is kept."""
    unknown = sorted(set(keep) - {file.place for file in files} - set(skipped))
    if unknown:
        raise ValueError(
            f"keep names {len(unknown)} files that are not in the corpus (first: {unknown[0]}); it has "
            f"{files[0].place}, ... Name them as the corpus does."
        )
    parts = []
    for file in files:
        kept = np.asarray(keep.get(file.place, np.ones(file.n_cells, np.bool_)))
        if kept.dtype != np.bool_ or kept.shape != (file.n_cells,):
            raise ValueError(
                f"keep must say True or False for each of the {file.n_cells:,} cells of {file.place}, not {kept.dtype} "
                f"of shape {kept.shape}. Was the file changed since it was curated?"
            )
        parts.append(kept)
    joined = np.concatenate(parts)
    if not joined.any():
        raise ValueError("keep leaves no cell of the corpus.")
    return joined


def _table(files: Sequence[CorpusFile]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": [file.place for file in files],
            "n_cells": [file.n_cells for file in files],
            "n_genes": [file.mapping.report.n_genes for file in files],
            "n_matched": [file.mapping.report.n_matched for file in files],
            "share_of_counts": [file.mapping.report.share_of_counts for file in files],
            "gene_column": [file.gene_column for file in files],
            "species": [file.mapping.report.species for file in files],
        }
    )
