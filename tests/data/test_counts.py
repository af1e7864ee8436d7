"""Counts over the columns of a file become counts over a vocabulary: the sums of each gene, in ascending order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm_hf.data.counts import Harmoniser
from scfm_hf.data.stored_rows import Rows


def rows_of(cells: list[list[tuple[int, float]]], kind: type[np.integer]) -> Rows:
    flat = [pair for cell in cells for pair in cell]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    columns = np.array([column for column, _ in flat], kind)
    return Rows(np.array([value for _, value in flat], np.float32), columns, offsets)


@st.composite
def files(draw: st.DrawFn) -> tuple[list[int], list[list[tuple[int, float]]]]:
    """Columns in a vocabulary, repeated or unknown ones among them, and cells whose columns may be in disorder."""
    n_columns = draw(st.integers(1, 8))
    targets = draw(st.lists(st.sampled_from([-1, 0, 1, 2, 5, 70_000]), min_size=n_columns, max_size=n_columns))
    if draw(st.booleans()):
        targets = sorted(set(targets))
    pair = st.tuples(st.integers(0, len(targets) - 1), st.sampled_from([1.0, 2.0, 300.0, 65_535.0, 65_536.0, 2.0**20]))
    unique = draw(st.booleans())
    cell = st.lists(pair, max_size=8, unique_by=(lambda one: one[0]) if unique else None)
    return targets, draw(st.lists(cell, max_size=5))


@settings(max_examples=300, deadline=None)
@given(files(), st.sampled_from([np.int32, np.int64, np.uint16]))
def test_counts_are_those_of_each_gene_summed(
    file: tuple[list[int], list[list[tuple[int, float]]]], kind: type[np.integer]
) -> None:
    targets, cells = file
    found = Harmoniser(np.array(targets, np.int32))(rows_of(cells, kind))
    assert len(found.offsets) == len(cells) + 1
    for number, cell in enumerate(cells):
        expected: dict[int, float] = {}
        for column, value in cell:
            if targets[column] >= 0:
                expected[targets[column]] = expected.get(targets[column], 0) + value
        span = slice(found.offsets[number], found.offsets[number + 1])
        assert found.columns[span].tolist() == sorted(expected)
        assert found.values[span].tolist() == [expected[column] for column in sorted(expected)]
    assert found.columns.dtype == np.int32
    assert found.values.dtype == np.float32


@pytest.mark.parametrize("column", [-1, 3])
@pytest.mark.parametrize("targets", [[0, 1, 2], [2, 1, 0], [-1, 0, 1]])
def test_columns_that_the_file_does_not_have_are_refused(targets: list[int], column: int) -> None:
    with pytest.raises(IndexError):
        Harmoniser(np.array(targets, np.int32))(rows_of([[(0, 1.0), (column, 1.0)]], np.int32))
