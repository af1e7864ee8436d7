"""``Curation``: the columns that are known of the cells of a corpus, saved beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfm_hf.data.curation.quality import QUALITY_FLAGS
from scfm_hf.errors import CorpusError
from scfm_hf.folders import whole_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

FLAGS = QUALITY_FLAGS | {
    "doublet": "two cells in a droplet, by Scrublet",
    "ambient": "most of the counts are ambient RNA, by DecontX",
    "not_primary": "is_primary_data is false: the cell is primary data of another data set",
    "duplicate": "another cell that is kept has the same counts",
    "near_duplicate": "another cell that is kept has counts so alike that it is this one, aligned again",
}
"""Flag -> what it means."""

_FORMAT = "scfm_hf curation 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Curation:
    """What is known about every cell of a corpus; made by :func:`scfm_hf.data.curation.curate_corpus`.

    Parameters
    ----------
    cells
        One line a cell, files in order: ``file``, ``row``, ``cell_id``, ``sample``, ``n_counts``, ``n_genes``,
        ``mitochondrial_share``, ``doublet_score`` and ``ambient_share`` (NaN where not judged), ``hash`` ('' where the
        counts are too few to tell cells apart), ``copy_of_file`` and ``copy_of_row`` ('' and -1 for cells that are no
        copy), and a boolean column for each flag of :data:`FLAGS`.
    pairs
        Pairs of cells that are one cell: ``file_a``, ``row_a``, ``file_b``, ``row_b``, ``kind``, ``found_by``,
        ``cosine``, ``difference``.
    files
        One line a file: ``file``, ``n_cells``, ``n_genes``, ``n_known_genes``, ``species``.
    options
        What it was made with.
    skipped
        File that could not be used -> why.
    """

    cells: pd.DataFrame
    pairs: pd.DataFrame
    files: pd.DataFrame
    options: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def keep(self, drop: Literal["all"] | Iterable[str] = "all") -> dict[str, NDArray[np.bool_]]:
        """Which cells of each file are left if those with some flags are dropped.

        Parameters
        ----------
        drop
            Names of flags, ``"all"`` for every one.

        Returns
        -------
        File -> whether each of its cells is kept, for ``load_corpus(..., keep=)`` and :func:`write_kept_cells`.

        Raises
        ------
        ValueError
            If there is no such flag.
        """
        names = _flag_names(drop)
        kept = ~self.cells[names].to_numpy(np.bool_).any(axis=1)
        file = self.cells["file"].to_numpy()
        return {str(name): kept[file == name] for name in self.files["file"]}

    def summary(self) -> pd.DataFrame:
        """How many cells of each file, and of all, have each flag; ``kept`` have none."""
        flags = self.cells[list(FLAGS)]
        counted = flags.assign(n_cells=True, kept=~flags.any(axis=1)).groupby(self.cells["file"], sort=False).sum()
        counted = counted.reindex(self.files["file"]).astype(np.int64)
        counted.loc["all"] = counted.sum()
        return counted[["n_cells", "kept", *FLAGS]]

    def __str__(self) -> str:
        total = self.summary().loc["all"]
        lines = [
            f"{total['n_cells']:,} cells in {len(self.files):,} files; {total['kept']:,} "
            f"({total['kept'] / max(total['n_cells'], 1):.1%}) without a flag."
        ]
        lines += [f"- {name}: {total[name]:,} ({meaning})" for name, meaning in FLAGS.items() if total[name]]
        lines += [f"Skipped: {reason}" for reason in self.skipped.values()]
        return "\n".join(lines)

    def save(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write ``cells.parquet``, ``pairs.parquet``, ``files.parquet`` and ``curation.json``, all or none.

        Raises
        ------
        FileExistsError
            If something is there and ``replace`` is False.
        """
        with whole_folder(folder, replace=replace) as new:
            self.write_into(new)

    def write_into(self, folder: Path) -> None:
        """Write these files into a folder that exists."""
        for name in ("cells", "pairs", "files"):
            getattr(self, name).to_parquet(folder / f"{name}.parquet", index=False)
        content = {"format": _FORMAT, "options": dict(self.options), "skipped": dict(self.skipped)}
        (folder / "curation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Curation:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CorpusError
            If it is not there, or damaged.
        """
        try:
            content = json.loads((Path(folder) / "curation.json").read_text(encoding="utf-8"))
            tables = {name: pd.read_parquet(Path(folder) / f"{name}.parquet") for name in ("cells", "pairs", "files")}
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            return cls(options=content["options"], skipped=content["skipped"], **tables)
        except (OSError, ValueError, KeyError) as error:
            raise CorpusError(f"{folder} is no saved curation, or damaged: {error}.") from error


def _flag_names(drop: Literal["all"] | Iterable[str]) -> list[str]:
    names = list(FLAGS) if drop == "all" else list(drop)
    unknown = [name for name in names if name not in FLAGS]
    if unknown:
        raise ValueError(f"There is no flag {', '.join(map(repr, unknown))}; there are {', '.join(FLAGS)}.")
    return names
