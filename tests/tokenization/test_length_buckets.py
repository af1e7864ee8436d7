"""Cells of like length come into one batch, and nothing but the key decides their order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.tokenization.length_buckets import bucket_by_length


@given(
    st.lists(st.integers(1, 50), max_size=60),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(0, 20),
)
def test_cells_stay_in_their_bucket_and_partial_batches_where_they_are(
    lengths: list[int], batch_size: int, bucket_batches: int, first: int
) -> None:
    sizes = {"batch_size": batch_size, "bucket_batches": bucket_batches}
    order = bucket_by_length(np.array(lengths, int), **sizes, key="a", first=first)
    assert sorted(order) == list(range(len(lengths)))
    start = -first % batch_size
    whole = (len(lengths) - start) // batch_size * batch_size
    for place, cell in enumerate(order):
        if place < start or place >= start + max(0, whole):
            assert cell == place
        else:
            bucket = batch_size * bucket_batches
            assert (cell - start) // bucket == (place - start) // bucket


def test_a_batch_is_a_run_of_the_sorted_cells() -> None:
    lengths = np.array([9, 1, 8, 2, 7, 3, 6, 4])
    order = bucket_by_length(lengths, batch_size=2, bucket_batches=4, key="a")
    assert sorted(map(sorted, lengths[order].reshape(4, 2).tolist())) == [[1, 2], [3, 4], [6, 7], [8, 9]]
    again = bucket_by_length(lengths, batch_size=2, bucket_batches=4, key="a")
    assert order.tolist() == again.tolist()
    others = {tuple(bucket_by_length(lengths, batch_size=2, bucket_batches=4, key=key)) for key in "bcdefg"}
    assert len(others) > 1
