"""Draws depend on the cell alone by default, and give the originals' global streams on request."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scfm_hf.tokenization.draws import CellDraws, SharedDraws


def test_a_cell_always_gets_the_same_numbers_whoever_drew_before() -> None:
    draws = CellDraws(5)
    first = draws.cell("AAAC-1").uniform(4)
    draws.cell("AAAG-1").permutation(9)
    assert draws.cell("AAAC-1").uniform(4).tolist() == first.tolist()
    assert CellDraws(5).cell("AAAC-1").uniform(4).tolist() == first.tolist()


def test_another_cell_seed_or_step_gets_other_numbers() -> None:
    streams = [
        CellDraws(5).cell("a"),
        CellDraws(5).cell("b"),
        CellDraws(6).cell("a"),
        CellDraws(5, step="mask").cell("a"),
        CellDraws(5).for_step("mask/1").cell("a"),
    ]
    assert len({tuple(stream.uniform(3)) for stream in streams}) == len(streams)
    assert len({stream.torch.initial_seed() for stream in streams}) == len(streams)


def test_the_numbers_are_the_same_on_every_machine() -> None:
    stream = CellDraws(0).cell("cell")
    assert stream.uniform(2).tolist() == [0.7448667097193334, 0.5711880410485348]


def test_the_first_numbers_do_not_depend_on_how_many_are_drawn() -> None:
    draws = CellDraws(1)
    assert draws.cell(3).uniform(10)[:4].tolist() == draws.cell(3).uniform(4).tolist()


def test_shared_draws_are_the_global_streams_seeded_once() -> None:
    draws = SharedDraws(11, 12)
    generator = np.random.RandomState(11)
    torch_generator = torch.Generator().manual_seed(12)
    for cell in ("a", "b"):
        stream = draws.cell(cell)
        assert stream.uniform(3).tolist() == generator.rand(3).tolist()
        assert stream.choice(9, 4).tolist() == generator.choice(9, 4, replace=False).tolist()
        weights = [0.1, 0.2, 0.7]
        drawn = stream.choice(3, 5, replace=True, weights=weights)
        assert drawn.tolist() == generator.choice(3, 5, p=weights).tolist()
        assert stream.permutation(6).tolist() == torch.randperm(6, generator=torch_generator).tolist()


def test_a_shared_choice_may_be_the_beginning_of_a_permutation_of_torch() -> None:
    draws = SharedDraws(3, choice_by="torch")
    expected = torch.randperm(8, generator=torch.Generator().manual_seed(3))[:5]
    assert draws.cell(0).choice(8, 5).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="choice_by"):
        draws.choice(8, 5, replace=True)
