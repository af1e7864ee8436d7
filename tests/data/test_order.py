"""The order of a corpus: every cell once an epoch, mixed, and a function of seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm_hf.data.order import CorpusOrder, EpochOrder, LengthBuckets, Window
from scfm_hf.data.sampling import balanced_weights, repeats_in_epoch

some = settings(max_examples=60, deadline=None)
corpora = st.builds(
    lambda sizes, block, windows, seed: CorpusOrder(sizes, block_size=block, window_size=block * windows, seed=seed),
    st.lists(st.integers(0, 90), min_size=1, max_size=6),
    st.integers(1, 16),
    st.integers(1, 8),
    st.integers(0, 2**40),
)


def cells(corpus: CorpusOrder, epoch: EpochOrder) -> list[int]:
    """Number in the corpus of every cell, in the order of the epoch."""
    given_cells = []
    for number in range(epoch.n_windows):
        window = epoch.window(number)
        assert window.first == len(given_cells)
        rows = window.blocks.rows + np.repeat(corpus.first_cells[window.blocks.file], window.blocks.sizes)
        given_cells += rows[window.order].tolist()
    return given_cells


@some
@given(corpora, st.integers(0, 5))
def test_an_epoch_has_every_cell_exactly_once(corpus: CorpusOrder, epoch: int) -> None:
    order = corpus.epoch(epoch)
    assert sorted(cells(corpus, order)) == list(range(len(order)))
    assert len(order) == corpus.n_cells.sum()


@some
@given(corpora, st.data())
def test_a_place_is_found_in_the_window_that_gives_it(corpus: CorpusOrder, data: st.DataObject) -> None:
    order = corpus.epoch(1)
    place = data.draw(st.integers(0, len(order)))
    number = order.window_at(place)
    if place == len(order):
        assert number == order.n_windows
    else:
        window = order.window(number)
        assert window.first <= place < window.first + len(window)


@some
@given(corpora, st.data())
def test_weighted_cells_come_as_often_as_they_are_drawn(corpus: CorpusOrder, data: st.DataObject) -> None:
    n_cells = int(corpus.n_cells.sum())
    repeats = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_cells, max_size=n_cells)), np.int32)
    order = corpus.epoch(0, repeats)
    assert np.bincount(cells(corpus, order), minlength=n_cells).tolist() == repeats.tolist()


@some
@given(corpora)
def test_no_window_is_much_larger_than_asked_for(corpus: CorpusOrder) -> None:
    order = corpus.epoch(0)
    largest = max((order.window(number).blocks.sizes.sum() for number in range(order.n_windows)), default=0)
    whole_blocks = (order.blocks.sizes == corpus.block_size).all()
    if whole_blocks:
        assert largest <= 1.5 * corpus.window_size + corpus.block_size


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Written down once: a change would break the resumption of every run."""
    corpus = CorpusOrder([7, 5], block_size=2, window_size=6, seed=3)
    assert cells(corpus, corpus.epoch(0)) == [5, 0, 1, 4, 6, 3, 2, 9, 10, 11, 7, 8]
    assert cells(corpus, corpus.epoch(2)) == [3, 5, 4, 2, 8, 7, 6, 1, 11, 10, 9, 0]


def test_epochs_and_seeds_differ() -> None:
    corpus = CorpusOrder([500], block_size=8, window_size=64)
    orders = [cells(corpus, corpus.epoch(epoch)) for epoch in (0, 1)]
    other = CorpusOrder([500], block_size=8, window_size=64, seed=1)
    assert orders[0] != orders[1]
    assert orders[0] != cells(other, other.epoch(0))


def test_batches_come_from_many_places() -> None:
    corpus = CorpusOrder([50_000])
    order = cells(corpus, corpus.epoch(0))
    entropies = []
    for start in range(0, len(order) - 256, 256):
        share = np.bincount(np.array(order[start : start + 256]) // 256) / 256
        entropies.append(-(share[share > 0] * np.log2(share[share > 0])).sum())
    assert np.mean(entropies) > 6.1


def test_a_block_never_spans_two_files() -> None:
    blocks = CorpusOrder([100, 3, 65], block_size=64).blocks
    assert list(zip(blocks.file.tolist(), blocks.start.tolist(), blocks.stop.tolist(), strict=True)) == [
        (0, 0, 64),
        (0, 64, 100),
        (1, 0, 3),
        (2, 0, 64),
        (2, 64, 65),
    ]


@pytest.mark.parametrize(("block_size", "window_size"), [(0, 10), (64, 32)])
def test_sizes_that_make_no_sense_are_refused(block_size: int, window_size: int) -> None:
    with pytest.raises(ValueError, match="block_size"):
        CorpusOrder([10], block_size=block_size, window_size=window_size)


@some
@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=200).map(np.array), st.integers(0, 9), st.integers(0, 2**40))
def test_a_cell_comes_as_often_as_its_weight_asks_up_to_rounding(weights: np.ndarray, epoch: int, seed: int) -> None:
    repeats = repeats_in_epoch(weights, seed=seed, epoch=epoch)
    expected = weights * len(weights) / weights.sum()
    assert repeats.sum() == len(weights)
    assert (np.abs(repeats - expected) < 1 + 1e-6).all()


def test_over_many_epochs_the_weights_are_kept() -> None:
    weights = np.array([3.0, 0.25, 0.25, 0.5])
    total = sum(repeats_in_epoch(weights, seed=0, epoch=epoch) for epoch in range(2000))
    assert np.allclose(total / 2000, weights, atol=0.05)


def test_temperature_balances_groups() -> None:
    tissue = np.array(["blood"] * 900 + ["eye"] * 100)
    for temperature, eye in ((1, 0.1), (2, 0.25), (np.inf, 0.5)):
        weights = balanced_weights([tissue], temperature=temperature)
        assert np.isclose(weights[tissue == "eye"].sum() / weights.sum(), eye)
        assert np.isclose(weights.mean(), 1)
    with pytest.raises(ValueError, match="temperature"):
        balanced_weights([tissue], temperature=0.5)


def test_groups_of_several_columns_are_their_combinations_and_missing_is_a_group() -> None:
    weights = balanced_weights([["a", "a", "b", "b"], ["x", "x", "x", None]], temperature=np.inf)
    assert np.allclose(weights, [2 / 3, 2 / 3, 4 / 3, 4 / 3])


def test_batches_hold_cells_of_like_length_and_every_cell_comes_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 300)
    buckets = LengthBuckets(lengths, batch_size=8, bucket_batches=6)
    plain, bucketed = (
        CorpusOrder([170, 130], block_size=8, window_size=96, seed=3, buckets=made) for made in (None, buckets)
    )
    spread, taken = [], []
    for epoch in range(2):
        cells = {}
        for name, order in (("plain", plain), ("bucketed", bucketed)):
            epoch_order = order.epoch(epoch)
            windows = [epoch_order.window(number) for number in range(epoch_order.n_windows)]
            cells[name] = np.concatenate([numbers(order, window) for window in windows])
            n_batches = len(cells[name]) // 8
            batches = lengths[cells[name][: n_batches * 8]].reshape(n_batches, 8)
            spread.append(np.ptp(batches, axis=1).mean())
        assert sorted(cells["bucketed"]) == list(range(300))
        taken.append(cells["bucketed"].tolist())
    assert spread[1] < spread[0] / 2
    assert taken[0] != taken[1]


def numbers(order: CorpusOrder, window: Window) -> np.ndarray:
    """Numbers in the corpus of the cells of a window, in order."""
    files = np.repeat(window.blocks.file, window.blocks.sizes)
    return (window.blocks.rows + order.first_cells[files])[window.order]
