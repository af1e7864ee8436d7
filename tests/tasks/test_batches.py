"""Batches: cells of like length, and never a part of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.tasks.batches import batches_by_length
from scfm_hf.tokenization.encoding import EncodedCells
from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.scheme import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = {"input_ids": Column(0), "cell_sets": Column(-1, per_cell=True, joins_cells=True)}
#: Length and set of each cell.
CELLS = st.lists(st.tuples(st.integers(0, 20), st.integers(-1, 3)), min_size=1, max_size=30)


def encoded(cells: Sequence[tuple[int, int]], *, sets: bool) -> EncodedCells:
    lengths, numbers = map(np.array, zip(*cells, strict=True))
    columns = {"input_ids": Ragged.from_lengths(np.arange(lengths.sum()), lengths)}
    if sets:
        columns["cell_sets"] = numbers
    return EncodedCells(columns, np.arange(len(cells)).astype(str), None)


@given(CELLS, st.booleans(), st.integers(1, 10), st.integers(1, 100))
def test_every_cell_comes_once_within_the_limits(
    cells: list[tuple[int, int]], sets: bool, batch_size: int, tokens: int
) -> None:
    made = encoded(cells, sets=sets)
    seen: list[int] = []
    for rows, inputs in batches_by_length(made, COLUMNS, batch_size=batch_size, tokens_per_batch=tokens):
        assert inputs["input_ids"].shape == (len(rows), max(1, made.lengths[rows].max()))
        numbers = {cells[row][1] for row in rows}
        one_unit = len(rows) == 1 or (sets and len(numbers) == 1 and numbers != {-1})
        assert one_unit or (len(rows) <= batch_size and inputs["input_ids"].numel() <= tokens)
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(cells)))


@given(CELLS, st.integers(1, 10))
def test_a_set_is_in_one_batch_in_the_order_of_the_file(cells: list[tuple[int, int]], batch_size: int) -> None:
    batches = [rows for rows, _ in batches_by_length(encoded(cells, sets=True), COLUMNS, batch_size=batch_size)]
    for number in {number for _, number in cells} - {-1}:
        members = [row for row, (_, own) in enumerate(cells) if own == number]
        (whole,) = [rows for rows in batches if set(members) & set(rows.tolist())]
        assert [row for row in whole if row in members] == members
