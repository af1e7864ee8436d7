"""A ragged column holds rows of any length, flat, and gives them back unchanged in every form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.tokenization.ragged import Ragged, row_blocks

rows_of_numbers = st.lists(st.lists(st.integers(-5, 1000), max_size=6), max_size=8)


@given(rows=rows_of_numbers)
def test_lists_and_arrow_give_the_rows_back(rows: list[list[int]]) -> None:
    ragged = Ragged.from_rows(rows, np.int64)
    assert len(ragged) == len(rows)
    assert ragged.to_list() == rows
    assert ragged.to_arrow().to_pylist() == rows
    assert [ragged.row(i).tolist() for i in range(len(rows))] == rows


@given(rows=rows_of_numbers, extra=st.integers(0, 3))
def test_padding_stands_on_the_right_of_each_row(rows: list[list[int]], extra: int) -> None:
    length = max(map(len, rows), default=0) + extra
    padded = Ragged.from_rows(rows, np.int64).to_padded(-9, length)
    assert padded.tolist() == [row + [-9] * (length - len(row)) for row in rows]


@given(rows=rows_of_numbers, length=st.integers(0, 7))
def test_head_cuts_every_row(rows: list[list[int]], length: int) -> None:
    assert Ragged.from_rows(rows, np.int64).head(length).to_list() == [row[:length] for row in rows]


@given(
    rows=rows_of_numbers, before=st.lists(st.integers(0, 9), max_size=2), after=st.lists(st.integers(0, 9), max_size=2)
)
def test_surround_puts_the_same_values_around_every_row(
    rows: list[list[int]], before: list[int], after: list[int]
) -> None:
    assert Ragged.from_rows(rows, np.int64).surround(before, after).to_list() == [before + row + after for row in rows]


@given(rows=rows_of_numbers.filter(bool), data=st.data())
def test_take_gives_the_rows_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    assert Ragged.from_rows(rows, np.int64).take(asked).to_list() == [rows[i] for i in asked]


@given(rows=rows_of_numbers, cut=st.integers(0, 8))
def test_concatenated_parts_are_the_whole(rows: list[list[int]], cut: int) -> None:
    parts = [Ragged.from_rows(part, np.int64) for part in (rows[:cut], rows[cut:])]
    assert Ragged.concatenate(parts) == Ragged.from_rows(rows, np.int64)


@given(rows=rows_of_numbers, size=st.integers(1, 10))
def test_blocks_cover_every_row_once_and_hold_the_size(rows: list[list[int]], size: int) -> None:
    ragged = Ragged.from_rows(rows, np.int64)
    blocks = list(row_blocks(ragged.offsets, size))
    assert [row for first, last in blocks for row in range(first, last)] == list(range(len(rows)))
    assert all(last - first == 1 or ragged.offsets[last] - ragged.offsets[first] <= size for first, last in blocks)


def test_rows_that_do_not_fit_are_refused_not_cut() -> None:
    with pytest.raises(ValueError, match=r"3 values, more than the padded length 2.*head\(2\)"):
        Ragged.from_rows([[1, 2, 3]]).to_padded(0, 2)


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 2, 1, 3], []])
def test_offsets_that_do_not_fit_the_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to the number of values, 3"):
        Ragged(np.arange(3), np.array(offsets))


def test_a_row_counts_from_the_end_too_and_stops_at_the_last() -> None:
    ragged = Ragged.from_rows([[1], [2, 3]])
    assert ragged.row(-1).tolist() == [2, 3]
    with pytest.raises(IndexError):
        ragged.row(2)
