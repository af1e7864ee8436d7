"""Sinusoids of positions."""

from __future__ import annotations

import math

import pytest

from scfm_hf.nn.positions import sinusoids


@pytest.mark.parametrize("width", [6, 7])
def test_even_columns_are_sines_and_odd_ones_cosines_of_falling_frequency(width: int) -> None:
    made = sinusoids(5, width)
    assert made.shape == (5, width)
    for position in range(5):
        for column in range(width):
            angle = position / 10_000 ** ((column - column % 2) / width)
            wave = math.cos(angle) if column % 2 else math.sin(angle)
            assert made[position, column].item() == pytest.approx(wave, abs=1e-6)
