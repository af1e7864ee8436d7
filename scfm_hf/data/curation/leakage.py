"""What two corpora, or two splits of one, have in common: cells, barcodes, donors and studies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfm_hf.data.corpus_file import Reading
from scfm_hf.data.curation.cell_sources import Cells, CellSource, cell_sources
from scfm_hf.data.curation.duplicates import Search, duplicate_pairs
from scfm_hf.data.curation.fingerprints import Fingerprints, fingerprint
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

GROUP_COLUMNS = ("study", "dataset_id", "donor", "donor_id", "sample", "sample_id", "patient", "batch")
"""Columns of obs whose values are compared where both corpora have them."""

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LeakageReport:
    """What a corpus ``a``, such as the one trained on, and ``b``, such as the evaluation's, have in common.

    Parameters
    ----------
    n_cells_a, n_cells_b
        Cells of each.
    pairs
        One line a pair of cells that are one cell: ``file_a``, ``row_a``, ``cell_id_a``, the same of b, ``kind``
        (``same counts`` or ``alike``), ``found_by``, ``cosine``, ``difference``; see
        :func:`scfm_hf.data.curation.duplicates.duplicate_pairs`. Of many equal cells each is in one pair at least.
    files
        One line a pair of files with anything in common: ``file_a``, ``file_b``, ``n_same_counts`` and ``n_alike``
        (cells of b that are in a), ``share_of_b``, ``n_cells_of_a`` and ``share_of_a`` likewise, and
        ``n_common_barcodes``, which happen by chance as well: kits have a fixed list of barcodes.
    n_leaked_a, n_leaked_b
        Cells of each that are in the other.
    groups
        Column of obs -> values that both corpora have. Names such as ``donor 1`` may be equal by chance.
    n_without_hash
        Cells with too few counts to be told from others, so that equal counts would prove nothing: they are compared by
        barcode and neighbours only.
    n_without_sketch
        Cells of panels and other short lists of genes, which are compared by hash and barcode only.
    skipped
        File that could not be used -> why.
    """

    n_cells_a: int
    n_cells_b: int
    pairs: pd.DataFrame
    files: pd.DataFrame
    n_leaked_a: int
    n_leaked_b: int
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    n_without_hash: int = 0
    n_without_sketch: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether no cell is in both. Common donors and studies do not count here: see ``groups``."""
        return self.pairs.empty

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain types, as JSON takes them."""
        return {
            "n_cells_a": self.n_cells_a,
            "n_cells_b": self.n_cells_b,
            "clean": self.clean,
            "n_leaked_a": self.n_leaked_a,
            "n_leaked_b": self.n_leaked_b,
            "files": self.files.to_dict("records"),
            "pairs": self.pairs.to_dict("records"),
            "groups": {column: list(values) for column, values in self.groups.items()},
            "n_without_hash": self.n_without_hash,
            "n_without_sketch": self.n_without_sketch,
            "skipped": dict(self.skipped),
        }

    def __str__(self) -> str:
        if self.clean:
            lines = [f"No cell is in both: {self.n_cells_a:,} cells against {self.n_cells_b:,}."]
        else:
            lines = [
                f"{self.n_leaked_b:,} of {self.n_cells_b:,} cells of b ({self.n_leaked_b / self.n_cells_b:.1%}) are in "
                f"a; they are {self.n_leaked_a:,} of its {self.n_cells_a:,} cells."
            ]
        found = self.files[self.files["n_same_counts"] + self.files["n_alike"] > 0]
        lines += [
            f"- {line.file_b} in {line.file_a}: {line.n_same_counts:,} with the same counts, {line.n_alike:,} alike "
            f"({line.share_of_b:.1%} of the file of b)"
            for line in found.head(_SHOWN).itertuples()
        ]
        if len(found) > _SHOWN:
            lines.append(f"- and {len(found) - _SHOWN} more pairs of files")
        if len(self.files):
            common = int(self.files["n_common_barcodes"].sum())
            lines.append(f"Common barcodes, which may be chance: {common:,} in {len(self.files):,} pairs of files.")
        for column, values in self.groups.items():
            shown = ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
            lines.append(f"Both have {len(values):,} values of {column!r}: {shown}")
        if self.n_without_hash or self.n_without_sketch:
            lines.append(
                f"{self.n_without_hash:,} cells have too few counts to be compared by hash; {self.n_without_sketch:,} "
                "are of panels or have no counts, and were not compared as neighbours."
            )
        lines += [f"Skipped: {reason}" for reason in self.skipped.values()]
        return "\n".join(lines)


def leakage_report(
    a: Cells,
    b: Cells,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    group_columns: Sequence[str] = GROUP_COLUMNS,
    min_cosine: float = 0.9,
    max_difference: float = 0.5,
    search: Search = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> LeakageReport:
    """Find what two corpora, or two splits, have in common.

    Parameters
    ----------
    a, b
        Files, folders or patterns; file -> rows (numbers or a mask); or an AnnData or a view of one, such as
        ``adata[train]``. a is usually what was trained on, b what is evaluated on.
    layer, use_raw, gene_column
        Where the counts and the names of genes are, in all of them.
    group_columns
        Columns of obs whose values are compared where both have them.
    min_cosine, max_difference, search
        What counts as alike, and how it is searched; see
        :func:`scfm_hf.data.curation.duplicates.duplicate_pairs`.
    on_error
        ``"skip"`` leaves out files that cannot be used and lists them in the report.
    progress
        Whether to show bars.

    Raises
    ------
    CorpusError
        If a file is missing, damaged, empty or not of counts.
    """
    reading = Reading(layer=layer, use_raw=use_raw, gene_column=gene_column)
    of_a, of_b = cell_sources(a, reading, name="a"), cell_sources(b, reading, name="b")
    skipped: dict[str, str] = {}

    def skip(source: CellSource, error: CorpusError) -> None:
        skipped[source.name] = str(error)

    prints = fingerprint(
        [*of_a, *of_b], gene_column=gene_column, skip=skip if on_error == "skip" else None, progress=progress
    )
    on_b = np.array([any(source is one for one in of_b) for source in prints.sources], np.bool_)
    sides = on_b[prints.source_of]
    if sides.all() or not sides.any():
        raise CorpusError(f"No cell of {'a' if sides.all() else 'b'} can be used.")
    pairs = duplicate_pairs(prints, sides=sides, min_cosine=min_cosine, max_difference=max_difference, search=search)
    return LeakageReport(
        n_cells_a=int((~sides).sum()),
        n_cells_b=int(sides.sum()),
        pairs=_named(prints, pairs),
        files=_file_pairs(prints, pairs, sides),
        n_leaked_a=pairs["first"].nunique(),
        n_leaked_b=pairs["second"].nunique(),
        groups=_common_groups(prints, on_b, group_columns),
        n_without_hash=int((prints.own_hashes == 0).sum()),
        n_without_sketch=int((~np.isfinite(prints.sketches).all(axis=1)).sum()),
        skipped=skipped,
    )


def _named(prints: Fingerprints, pairs: pd.DataFrame) -> pd.DataFrame:
    names = np.array([source.name for source in prints.sources], object)
    columns: dict[str, Any] = {}
    for side, cells in (("a", pairs["first"].to_numpy()), ("b", pairs["second"].to_numpy())):
        columns[f"file_{side}"] = names[prints.source_of[cells]]
        columns[f"row_{side}"] = prints.rows[cells]
        columns[f"cell_id_{side}"] = prints.cell_ids[cells].astype(object)
    return pd.DataFrame(columns | {name: pairs[name].to_numpy() for name in pairs.columns[2:]})


def _file_pairs(prints: Fingerprints, pairs: pd.DataFrame, sides: NDArray[np.bool_]) -> pd.DataFrame:
    """What each pair of files has in common, the pairs with most cells first."""
    sizes = np.diff(prints.first_cells)
    found = pairs.assign(source_a=prints.source_of[pairs["first"]], source_b=prints.source_of[pairs["second"]]).groupby(
        ["source_a", "source_b"]
    )
    cells = dict(list(found))
    barcodes = _common_barcodes(prints, sides)
    lines = []
    for key in sorted(set(cells) | set(barcodes)):
        a, b = key
        table = cells.get(key, pairs.iloc[:0])
        same = table.loc[table["kind"] == "same counts", "second"].nunique()
        n_a, n_b = table["first"].nunique(), table["second"].nunique()
        lines.append(
            {
                "file_a": prints.sources[a].name,
                "file_b": prints.sources[b].name,
                "n_same_counts": same,
                "n_alike": n_b - same,
                "share_of_b": n_b / int(sizes[b]),
                "n_cells_of_a": n_a,
                "share_of_a": n_a / int(sizes[a]),
                "n_common_barcodes": barcodes.get(key, 0),
            }
        )
    columns = "file_a file_b n_same_counts n_alike share_of_b n_cells_of_a share_of_a n_common_barcodes".split()
    made = pd.DataFrame(lines, columns=columns)
    return made.sort_values(["share_of_b", "n_common_barcodes"], ascending=False, ignore_index=True, kind="stable")


def _common_barcodes(prints: Fingerprints, sides: NDArray[np.bool_]) -> dict[tuple[int, int], int]:
    table = pd.DataFrame({"barcode": prints.barcodes, "source": prints.source_of}).drop_duplicates()
    on_b = sides[prints.first_cells[table["source"]]]
    met = table[~on_b].merge(table[on_b], on="barcode", suffixes=("_a", "_b"))
    return {(int(a), int(b)): int(n) for (a, b), n in met.groupby(["source_a", "source_b"]).size().items()}


def _common_groups(prints: Fingerprints, on_b: NDArray[np.bool_], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    values: dict[str, tuple[set[str], set[str]]] = {}
    for source, side in zip(prints.sources, on_b.tolist(), strict=True):
        cells = source.open()
        try:
            has = [name for name in columns if name in cells.obs_columns]
            obs = cells.obs(has).iloc[source.rows_of(cells)]
        finally:
            cells.close()
        for name in has:
            values.setdefault(name, (set(), set()))[side].update(map(str, obs[name].dropna().unique()))
    met = {name: tuple(sorted(of_a & of_b)) for name, (of_a, of_b) in values.items()}
    return {name: both for name, both in met.items() if both}
