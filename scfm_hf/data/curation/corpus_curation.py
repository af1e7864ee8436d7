"""``curate_corpus``: what is known about every cell of a corpus, as columns; no file is changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.curation.cell_sources import Block, CellSource, cell_sources
from scfm_hf.data.curation.curation import Curation
from scfm_hf.data.curation.droplets import ambient, doublets
from scfm_hf.data.curation.duplicates import Search, duplicate_pairs
from scfm_hf.data.curation.fingerprints import Fingerprints, fingerprint
from scfm_hf.data.curation.quality import QualityLimits, quality_figures, quality_flags
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from scfm_hf.data.cell_files import StoredCells
    from scfm_hf.data.curation.canonical_genes import FileGenes

_PRIMARY = "is_primary_data"


def curate_corpus(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    sample_column: str | None = None,
    limits: QualityLimits | None = None,
    find_doublets: bool = False,
    find_ambient: bool = False,
    min_cosine: float = 0.9,
    max_difference: float = 0.5,
    search: Search = "auto",
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> Curation:
    """Find out what is known about every cell of a corpus.

    The files are read by blocks and never changed; doublets and ambient RNA need all cells of a sample in memory.
    Nothing is dropped: :meth:`Curation.keep` says what would be left.

    Parameters
    ----------
    files
        Files, folders or patterns, as :func:`scfm_hf.load_corpus` takes them.
    layer, use_raw, gene_column
        Where the counts and the names of genes are in every file.
    sample_column
        Column of obs that names the sample of a cell, within which outliers, doublets and ambient RNA are looked for;
        a file is one sample if not given.
    limits
        What is flagged for its quality.
    find_doublets, find_ambient
        Whether to run Scrublet and DecontX, which need the extra ``curation`` and take most of the time.
    min_cosine, max_difference, search
        What counts as alike, and how it is searched; see
        :func:`scfm_hf.data.curation.duplicates.duplicate_pairs`.
    seed
        Of Scrublet and of DecontX's clusters.
    on_error
        ``"skip"`` leaves out files that cannot be used and lists them.
    progress
        Whether to show bars.

    Raises
    ------
    CorpusError
        If a file is missing, damaged, empty, not of counts or lacks the sample column; or no file is left.
    MissingExtraError
        If doublets or ambient RNA are wanted without their packages.
    """
    reading = Reading(layer=layer, use_raw=use_raw, gene_column=gene_column)
    limits = limits or QualityLimits()
    skipped: dict[str, str] = {}
    figures: list[pd.DataFrame] = []

    def skip(source: CellSource, error: CorpusError) -> None:
        skipped[source.name] = str(error)

    def check(cells: StoredCells) -> None:
        if sample_column is not None and sample_column not in cells.obs_columns:
            has = ", ".join(map(repr, cells.obs_columns)) or "none"
            raise CorpusError(f"{cells.place}: obs has no column {sample_column!r}; it has {has}.")

    def watch(genes: FileGenes, block: Block) -> None:
        figures.append(quality_figures(block.counts, genes))

    prints = fingerprint(
        cell_sources(files, reading),
        gene_column=gene_column,
        check=check,
        watch=watch,
        skip=skip if on_error == "skip" else None,
        progress=progress,
    )
    quality = pd.concat(figures, ignore_index=True)
    samples, primary = _annotation(prints, sample_column)
    sample_codes = pd.MultiIndex.from_arrays([prints.source_of, samples]).factorize()[0]
    n_genes = np.array([len(genes.names) for genes in prints.genes])
    droplets = _droplets(prints, sample_codes, find_doublets, find_ambient, seed, progress)
    pairs = duplicate_pairs(prints, min_cosine=min_cosine, max_difference=max_difference, search=search)
    copy_of, of_same = _copies(pairs, primary, quality["n_counts"].to_numpy())
    names = np.array([source.name for source in prints.sources], object)
    is_copy = copy_of >= 0
    own = prints.own_hashes
    columns: dict[str, Any] = {
        "file": names[prints.source_of],
        "row": prints.rows,
        "cell_id": prints.cell_ids.astype(object),
        "sample": samples,
        **quality,
        "doublet_score": droplets["doublet"][0],
        "ambient_share": droplets["ambient"][0],
        "hash": np.array([f"{number:016x}" if number else "" for number in own.tolist()], object),
        "copy_of_file": np.where(is_copy, names[prints.source_of[copy_of]], ""),
        "copy_of_row": np.where(is_copy, prints.rows[copy_of], -1),
        **quality_flags(quality, sample_codes, n_genes[prints.source_of], limits),
        "doublet": droplets["doublet"][1],
        "ambient": droplets["ambient"][1],
        "not_primary": ~primary,
        "duplicate": is_copy & of_same,
        "near_duplicate": is_copy & ~of_same,
    }
    options = {
        "layer": layer,
        "use_raw": use_raw,
        "gene_column": gene_column,
        "sample_column": sample_column,
        "limits": asdict(limits),
        "find_doublets": find_doublets,
        "find_ambient": find_ambient,
        "min_cosine": min_cosine,
        "max_difference": max_difference,
        "search": search,
        "seed": seed,
    }
    return Curation(
        cells=pd.DataFrame(columns),
        pairs=_named_pairs(prints, names, pairs),
        files=_files(prints, names),
        options=options,
        skipped=skipped,
    )


def _annotation(prints: Fingerprints, sample_column: str | None) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Sample of each cell, and whether it is primary data."""
    samples, primary = [], []
    for source in prints.sources:
        cells = source.open()
        try:
            rows, has = source.rows_of(cells), cells.obs_columns
            wanted = [name for name in (sample_column, _PRIMARY) if name is not None and name in has]
            obs = cells.obs(wanted).iloc[rows]
        finally:
            cells.close()
        named = obs[sample_column].astype(str).to_numpy(object) if sample_column else np.full(len(rows), "", object)
        samples.append(named)
        told = obs[_PRIMARY].map(_is_true).to_numpy(np.bool_) if _PRIMARY in obs else np.ones(len(rows), np.bool_)
        primary.append(told)
    return np.concatenate(samples), np.concatenate(primary)


def _is_true(value: object) -> bool:
    """Whether a value of is_primary_data says yes; only a clear no is a no."""
    return str(value).strip().lower() not in ("false", "0", "0.0", "no")


def _droplets(
    prints: Fingerprints,
    samples: NDArray[np.integer],
    find_doublets: bool,
    find_ambient: bool,
    seed: int,
    progress: bool,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Scores and flags of doublets and ambient RNA of all cells, sample by sample."""
    from tqdm.auto import tqdm

    made = {name: (np.full(len(prints), np.nan), np.zeros(len(prints), np.bool_)) for name in ("doublet", "ambient")}
    methods = ({"doublet": doublets} if find_doublets else {}) | ({"ambient": ambient} if find_ambient else {})
    numbers = np.unique(samples) if methods else np.empty(0, np.int64)
    for sample in tqdm(numbers, desc="droplets", disable=not progress or not methods):
        cells = np.flatnonzero(samples == sample)
        number = int(prints.source_of[cells[0]])
        opened = prints.sources[number].open()
        try:
            counts = prints.sources[number].read(opened, cells - prints.first_cells[number])
        finally:
            opened.close()
        for name, method in methods.items():
            judged = method(counts, seed=seed)
            made[name][0][cells], made[name][1][cells] = judged.scores, judged.flags
    return made


def _copies(
    pairs: pd.DataFrame, primary: NDArray[np.bool_], n_counts: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of which cell each is a copy, -1 if of none, and whether some cell has the same counts.

    Of the cells that are one, primary data is kept first, then the cell with most counts, then the first.
    """
    n_cells = len(primary)
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    graph = coo_array((np.ones(len(pairs)), (first, second)), (n_cells, n_cells))
    component = connected_components(graph, directed=False)[1]
    order = np.lexsort((np.arange(n_cells), -n_counts, ~primary))
    groups, best = np.unique(component[order], return_index=True)
    kept = np.empty(len(groups), np.int64)
    kept[groups] = order[best]
    copy_of = np.where(kept[component] == np.arange(n_cells), -1, kept[component])
    same = pairs.loc[pairs["kind"] == "same counts", ["first", "second"]].to_numpy().ravel()
    return copy_of, np.isin(np.arange(n_cells), same)


def _named_pairs(prints: Fingerprints, names: NDArray[np.object_], pairs: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for side, cells in (("a", pairs["first"].to_numpy()), ("b", pairs["second"].to_numpy())):
        columns |= {f"file_{side}": names[prints.source_of[cells]], f"row_{side}": prints.rows[cells]}
    return pd.DataFrame(columns | {name: pairs[name].to_numpy() for name in pairs.columns[2:]})


def _files(prints: Fingerprints, names: NDArray[np.object_]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": names,
            "n_cells": np.diff(prints.first_cells),
            "n_genes": [len(genes.names) for genes in prints.genes],
            "n_known_genes": [int((genes.names != "").sum()) for genes in prints.genes],
            "species": [genes.species for genes in prints.genes],
        }
    )
