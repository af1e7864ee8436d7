"""Cells that are not kept never come; the order stays a function of seed and epoch, whatever reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from scfm_hf.data.corpus import load_corpus
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: dict[str, Any] = {"columns": ["cell"], "block_size": 4, "window_size": 24, "batch_size": 5}


@pytest.fixture(scope="module")
def keep(corpus_folder: Path) -> dict[str, np.ndarray]:
    """Two cells of three in the first file, the first block of the second left out, all of the third."""
    places = [file.place for file in load_corpus(corpus_folder).files]
    return {places[0]: np.arange(30) % 3 > 0, places[1]: np.arange(25) >= 4}


KEPT = [*(cell for cell in range(30) if cell % 3), *range(34, 72)]


def cells_of(stream: Any) -> list[int]:
    return [cell["cell"] for cell in stream]


def test_each_kept_cell_comes_once_an_epoch_in_an_order_of_its_own(corpus_folder: Path, keep: dict) -> None:
    stream = load_corpus(corpus_folder, keep=keep, **OPTIONS)
    assert len(stream) == stream.n_cells == len(KEPT)
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append(cells_of(stream))
        assert sorted(orders[-1]) == KEPT
    assert orders[0] != orders[1]
    stream.set_epoch(0)
    assert [row for batch in stream.batches(7) for row in batch["cell"].tolist()] == orders[0]
    assert [cell["cell"] for cell in stream.to_datasets()] == orders[0]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_workers_and_ranks_give_the_same_order(corpus_folder: Path, keep: dict, n_workers: int, n_ranks: int) -> None:
    expected = cells_of(load_corpus(corpus_folder, keep=keep, **OPTIONS))
    batches: list[list[list[int]]] = []
    for rank in range(n_ranks):
        stream = load_corpus(corpus_folder, keep=keep, **OPTIONS).shard(rank=rank, world_size=n_ranks)
        loader = DataLoader(stream, batch_size=5, num_workers=n_workers, collate_fn=cells_of)
        batches.append(list(loader))
    in_turn = [batch for step in range(len(batches[0])) for rank in batches for batch in rank[step : step + 1]]
    assert [cell for batch in in_turn for cell in batch] == expected


def test_a_run_goes_on_at_the_same_place_with_the_same_cells_only(corpus_folder: Path, keep: dict) -> None:
    stream = load_corpus(corpus_folder, keep=keep, **OPTIONS)
    stream.set_epoch(3)
    expected = cells_of(stream)
    stream.set_epoch(3)
    state = stream.state_dict(taken=20)
    again = load_corpus(corpus_folder, keep=keep, **OPTIONS)
    again.load_state_dict(state)
    assert cells_of(again) == expected[20:]
    for other in (None, {**keep, next(iter(keep)): np.ones(30, bool)}):
        with pytest.raises(CorpusError, match="keep differ"):
            load_corpus(corpus_folder, keep=other, **OPTIONS).load_state_dict(state)


def test_weights_balance_what_is_kept(corpus_folder: Path, keep: dict) -> None:
    stream = load_corpus(corpus_folder, keep=keep, balance="cell_type", temperature=np.inf, **OPTIONS)
    seen = [cell for epoch in range(20) for cell in (stream.set_epoch(epoch), cells_of(stream))[1]]
    assert set(seen) == set(KEPT)
    assert len(seen) == 20 * len(KEPT)


def test_what_cannot_be_kept_is_refused(corpus_folder: Path, keep: dict) -> None:
    place = next(iter(keep))
    with pytest.raises(ValueError, match="not in the corpus"):
        load_corpus(corpus_folder, keep={"elsewhere.h5ad": [True]})
    with pytest.raises(ValueError, match=r"30 cells.*shape \(2,\)"):
        load_corpus(corpus_folder, keep={place: [True, False]})
    with pytest.raises(ValueError, match="int64"):
        load_corpus(corpus_folder, keep={place: np.arange(30)})
    places = [file.place for file in load_corpus(corpus_folder).files]
    with pytest.raises(ValueError, match="no cell"):
        load_corpus(
            corpus_folder, keep={place: np.zeros(n, bool) for place, n in zip(places, (30, 25, 17), strict=True)}
        )
