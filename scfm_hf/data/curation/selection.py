"""Choosing what to train on: cells that span the whole of a corpus, and data sets that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.curation.cell_sources import Cells, cell_sources
from scfm_hf.data.curation.fingerprints import fingerprint
from scfm_hf.errors import CorpusError, MissingExtraError
from scfm_hf.folders import whole_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_COMPONENTS = 50


def geometric_sketch(
    cells: Cells,
    n_cells: int,
    *,
    seed: int = 0,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    progress: bool = True,
) -> dict[str, NDArray[np.bool_]]:
    """Choose cells evenly over the space of expression rather than by how many there are, by geosketch.

    Rare kinds of cells are thus seen as often as frequent ones. The space is that of the first 50 principal components
    of the log counts' random projection. Cells of panels, which have none, and cells without counts are never chosen.

    Parameters
    ----------
    cells
        Files, or file -> rows, such as :meth:`scfm_hf.data.curation.Curation.keep` gives.
    n_cells
        How many to choose.
    seed
        Of the sketch.
    layer, use_raw, gene_column
        Where the counts and the names of genes are in every file.
    progress
        Whether to show a bar.

    Returns
    -------
    File -> whether each of its cells is chosen, for ``load_corpus(..., keep=)``.

    Raises
    ------
    MissingExtraError
        If geosketch is not installed.
    ValueError
        If there are fewer cells to choose from.

    References
    ----------
    Hie et al. 2019, Geometric sketching compactly summarizes the single-cell transcriptomic landscape, Cell Systems
    8:483.
    """
    try:
        from geosketch import gs
    except ImportError as error:
        raise MissingExtraError("geosketch", "curation") from error
    from sklearn.decomposition import PCA

    reading = Reading(layer=layer, use_raw=use_raw, gene_column=gene_column)
    prints = fingerprint(cell_sources(cells, reading), gene_column=gene_column, progress=progress)
    usable = np.flatnonzero(np.isfinite(prints.sketches).all(axis=1))
    if not 0 < n_cells <= len(usable):
        raise ValueError(f"n_cells must be from 1 to the {len(usable):,} cells that can be chosen, not {n_cells:,}.")
    components = min(_COMPONENTS, len(usable))
    space = PCA(components, random_state=seed).fit_transform(prints.sketches[usable])
    state = np.random.get_state()  # geosketch sets the seed of all of NumPy
    try:
        chosen = usable[np.asarray(gs(space, n_cells, replace=False, seed=seed), np.int64)]
    finally:
        np.random.set_state(state)
    masks = {}
    for number, source in enumerate(prints.sources):
        opened = source.open()
        mask = np.zeros(opened.n_cells, np.bool_)
        opened.close()
        mask[prints.rows[chosen[prints.source_of[chosen] == number]]] = True
        masks[source.name] = mask
    return masks


def add_in_stages(
    data_sets: Mapping[str, Sequence[str]],
    fit_and_score: Callable[[list[str]], float],
    *,
    record: str | os.PathLike[str],
    only_better: bool = False,
) -> pd.DataFrame:
    """Add data sets one after the other, and record what each does to the validation score.

    The record is written after every stage. Called again with it, stages that are done are not done again.

    Parameters
    ----------
    data_sets
        Name -> its files, in the order in which they are added.
    fit_and_score
        Trains on files and gives the validation score, the higher the better. The validation set must be none of them:
        see :func:`scfm_hf.data.curation.leakage_report`.
    record
        JSON file.
    only_better
        Leave out again, before the next stage, a data set that does not raise the score.

    Returns
    -------
    One line a stage: ``data_set``, ``n_files`` (of all data sets in it), ``score``, ``change`` (from the last score
    that was kept; the score itself at first) and ``kept``.

    Raises
    ------
    CorpusError
        If the record is of other data sets, or damaged.
    ValueError
        If a score is not a finite number.
    """
    path = Path(record)
    plan = {"only_better": only_better, "data_sets": {name: list(map(str, files)) for name, files in data_sets.items()}}
    stages = _stages_done(path, plan)
    kept = [stage["data_set"] for stage in stages if stage["kept"]]
    best = next((stage["score"] for stage in reversed(stages) if stage["kept"]), 0.0)
    for name in list(data_sets)[len(stages) :]:
        files = [file for one in (*kept, name) for file in plan["data_sets"][one]]  # type: ignore[index]
        score = float(fit_and_score(files))
        if not np.isfinite(score):
            raise ValueError(f"The score with {name!r} is {score}, which is no finite number.")
        better = not kept or not only_better or score > best
        stages.append({"data_set": name, "n_files": len(files), "score": score, "change": score - best, "kept": better})
        if better:
            kept, best = [*kept, name], score
        with whole_file(path, replace=True) as new:
            new.write_text(json.dumps(plan | {"stages": stages}, indent=1) + "\n", encoding="utf-8")
    return pd.DataFrame(stages, columns=["data_set", "n_files", "score", "change", "kept"])


def _stages_done(path: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        stages = list(recorded["stages"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is no record of stages, or damaged: {error!r}. Remove it to begin anew.") from error
    done = [stage["data_set"] for stage in stages]
    names = list(plan["data_sets"])
    same = all(recorded["data_sets"].get(name) == plan["data_sets"][name] for name in done if name in names)
    if done != names[: len(done)] or not same or recorded["only_better"] != plan["only_better"]:
        raise CorpusError(
            f"{path} is the record of other stages ({', '.join(done)}). Give the same data sets first, in that order, "
            "or another record."
        )
    return stages
