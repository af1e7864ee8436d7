"""Ranks and their workers share the batches of an epoch, and all have as many."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.data.rank_share import RankShare

sizes = st.integers(1, 8)


@given(st.integers(0, 100), sizes, sizes, sizes, st.booleans())
def test_every_cell_is_of_one_rank_and_one_worker(
    n_cells: int, batch_size: int, world_size: int, n_workers: int, even: bool
) -> None:
    places, held = np.arange(n_cells), np.zeros(n_cells, int)
    for rank in range(world_size):
        share = RankShare(rank, world_size, batch_size, even)
        of_rank = sum(
            share.holds(places, n_cells, worker=worker, n_workers=n_workers).astype(int) for worker in range(n_workers)
        )
        assert np.sum(of_rank) == share.size(n_cells)
        held += of_rank
    too_few = even and 0 < n_cells % (batch_size * world_size) < world_size
    assert (held >= 1).all()
    assert held.sum() == n_cells if not too_few else held.sum() < n_cells + world_size


@given(st.integers(1, 100), sizes, sizes)
def test_even_batches_are_as_many_on_every_rank(n_cells: int, batch_size: int, world_size: int) -> None:
    steps = -(-n_cells // (batch_size * world_size))
    for rank in range(world_size):
        size = RankShare(rank, world_size, batch_size, even_batches=True).size(n_cells)
        assert -(-size // batch_size) == steps


def test_the_last_cells_are_shared_evenly() -> None:
    shares = [
        np.flatnonzero(RankShare(rank, 3, 4, even_batches=True).holds(np.arange(17), 17)).tolist() for rank in range(3)
    ]
    assert shares == [[0, 1, 2, 3, 12, 13], [4, 5, 6, 7, 14, 15], [8, 9, 10, 11, 16]]
