"""The rule of comparison: it must find what is wrong, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from parity.compare import Comparison, Keyed, compare
from parity.golden import Golden
from parity.toy import ATTENTION_MASK, HIDDEN, IDS, MASK, STATES, TOKENS, make_golden

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def compared(
    tmp_path: Path, stored: Any, got: Any, keys: dict[str, Any], **others: tuple[Any, dict[str, Any]]
) -> Comparison:
    """Compare one array of a folder that holds it and some others."""
    golden = make_golden(tmp_path, {"x": (stored, keys), **others})
    return compare(golden, golden.arrays["x"], got)


# ------------------------------------------------------------------------------------------------------------- numbers


def test_tolerance_is_relative_to_one_plus_the_expected_number(tmp_path: Path) -> None:
    stored, keys = np.array([0.0, 1e4]), {"axis": ["gene"], "tolerance": 1e-4}
    assert compared(tmp_path, stored, stored + [0.9e-4, 0.9], keys).passed


def test_a_wrong_number_is_named_with_its_place(tmp_path: Path) -> None:
    got = STATES.copy()
    got[2, 1, 0] += 0.5
    found = compared(tmp_path, STATES, got, HIDDEN)
    assert not found.passed
    assert found.index == (2, 1, 0)
    assert found.difference == pytest.approx(0.5)
    assert "1 of 24 numbers differ; most at [2, 1, 0]" in (found.problem or "")


def test_tolerance_zero_means_equal(tmp_path: Path) -> None:
    got = IDS.copy()
    got[0, 0] += 1
    assert not compared(tmp_path, IDS, got, TOKENS).passed
    golden = Golden(tmp_path / "toy" / "small")
    assert compare(golden, golden.arrays["x"], IDS).passed


def test_what_was_not_computed_differs(tmp_path: Path) -> None:
    assert not compared(tmp_path, STATES, STATES[:, :3], HIDDEN).passed


def test_more_tokens_than_stored_are_cut(tmp_path: Path) -> None:
    assert compared(tmp_path, STATES[:, :2], STATES, HIDDEN).passed


def test_stored_positions_are_taken(tmp_path: Path) -> None:
    assert compared(tmp_path, STATES[:, [0, 3]], STATES, {**HIDDEN, "positions": [0, 3]}).passed


@pytest.mark.parametrize("got", [STATES[:2], STATES[..., :1], STATES[0]])
def test_another_shape_is_no_match_on_any_other_axis(tmp_path: Path, got: NDArray[Any]) -> None:
    found = compared(tmp_path, STATES, got, HIDDEN)
    assert "shape" in (found.problem or "")


@pytest.mark.parametrize("stored", [np.float32(2.5), np.array([2.5], np.float32)])
def test_a_number_for_the_call_is_compared_whatever_its_form(tmp_path: Path, stored: Any) -> None:
    axis = ["batch"] if np.ndim(stored) else []
    assert compared(tmp_path, stored, [2.5], {"axis": axis}).passed


def test_an_array_of_a_single_cell_may_lack_the_cell_axis(tmp_path: Path) -> None:
    keys = {"axis": ["token", "hidden"], "cells": [1], "where": "attention_mask", "tolerance": 1e-5}
    got = STATES[[1]].copy()
    got[0, 2:] = 99.0
    assert compared(tmp_path, STATES[1], got, keys, **ATTENTION_MASK).passed


# --------------------------------------------------------------------------------------------------------------- masks


def test_only_places_where_the_mask_is_one_are_compared(tmp_path: Path) -> None:
    keys = {**HIDDEN, "where": "attention_mask"}
    assert compared(tmp_path, STATES, np.where(MASK[..., None] == 1, STATES, 99.0), keys, **ATTENTION_MASK).passed
    golden = Golden(tmp_path / "toy" / "small")
    assert not compare(golden, golden.arrays["x"], np.where(MASK[..., None] == 1, 99.0, STATES)).passed


def test_a_mask_is_taken_at_the_cells_and_cut_to_the_length(tmp_path: Path) -> None:
    keys = {**HIDDEN, "where": "attention_mask", "cells": [2, 1]}
    got = STATES[[2, 1], :3].copy()
    got[1, 2] = np.nan
    assert compared(tmp_path, STATES[[2, 1], :3], got, keys, **ATTENTION_MASK).passed


def test_positions_before_the_mask_are_always_compared(tmp_path: Path) -> None:
    stored = np.concatenate([np.ones((3, 1, 2), np.float32), STATES], axis=1)
    keys = {**HIDDEN, "where": "attention_mask", "where_offset": 1}
    got = np.where(np.pad(MASK, [(0, 0), (1, 0)], constant_values=1)[..., None] == 1, stored, 99.0)
    assert compared(tmp_path, stored, got, keys, **ATTENTION_MASK).passed
    golden = Golden(tmp_path / "toy" / "small")
    got[0, 0, 0] = 99.0
    assert not compare(golden, golden.arrays["x"], got).passed


def test_attention_is_masked_at_queries_and_keys(tmp_path: Path) -> None:
    stored = np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4)
    both = MASK[:, None, :, None] * MASK[:, None, None, :]
    keys = {"axis": ["cell", "head", "query", "key"], "where": "attention_mask"}
    assert compared(tmp_path, stored, np.where(both == 1, stored, -1), keys, **ATTENTION_MASK).passed
    golden = Golden(tmp_path / "toy" / "small")
    assert not compare(golden, golden.arrays["x"], np.where(both == 1, -1, stored)).passed


def test_padding_of_an_array_without_mask_may_be_left_out(tmp_path: Path) -> None:
    golden = make_golden(tmp_path, {"x": (STATES, HIDDEN)})
    got = np.where(MASK[..., None] == 1, STATES, np.nan)
    assert compare(golden, golden.arrays["x"], got, real=MASK).passed
    assert not compare(golden, golden.arrays["x"], got).passed


# ---------------------------------------------------------------------------------------------------------------- ties

TIES = np.array([[-1, 0, 1, 1, 1, 2, -2, -9]])
TIED = np.array([[1, 20, 31, 32, 33, 40, 2, 0]])


def tied(full_length: int = 5, **keys: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, dict[str, Any]]]]:
    others = {
        "tie_groups": (TIES, {**TOKENS, "role": "aux"}),
        "full_length": ([full_length], {"axis": ["cell"], "role": "aux"}),
    }
    return {**TOKENS, "cells": [0], "tie_groups": "tie_groups", **keys}, others


def test_ties_may_come_in_any_order(tmp_path: Path) -> None:
    keys, others = tied()
    assert compared(tmp_path, TIED, TIED[:, [0, 1, 4, 2, 3, 5, 6, 7]], keys, **others).passed


def test_order_between_groups_counts(tmp_path: Path) -> None:
    keys, others = tied()
    assert not compared(tmp_path, TIED, TIED[:, [0, 2, 1, 3, 4, 5, 6, 7]], keys, **others).passed


def test_a_token_twice_in_a_group_counts_twice(tmp_path: Path) -> None:
    keys, others = tied()
    stored = np.where(TIED == 33, 32, TIED)
    assert compared(tmp_path, stored, stored, keys, **others).passed
    golden = Golden(tmp_path / "toy" / "small")
    assert not compare(golden, golden.arrays["x"], np.where(TIED == 33, 31, TIED)).passed


def test_any_member_may_remain_of_a_group_that_the_context_cut(tmp_path: Path) -> None:
    keys, others = tied(full_length=9)
    assert compared(tmp_path, TIED, np.where(TIED == 40, 41, TIED), keys, **others).passed


def test_no_other_token_may_take_the_place_of_a_cut_group(tmp_path: Path) -> None:
    keys, others = tied(full_length=9)
    assert not compared(tmp_path, TIED, np.where(TIED == 40, 20, TIED), keys, **others).passed


def test_the_ranked_values_of_a_cut_group_are_compared(tmp_path: Path) -> None:
    keys, others = tied(full_length=9, tolerance=1e-9)
    golden = make_golden(tmp_path, {"values": (TIED * 0.5, keys), **others})
    assert compare(golden, golden.arrays["values"], TIED * 0.5).passed
    assert not compare(golden, golden.arrays["values"], np.where(TIED == 40, 41, TIED) * 0.5).passed


# ---------------------------------------------------------------------------------------------------------------- keys

KEYS = {"key": ([7, 3, 3, 9], {"axis": ["gene"], "role": "aux"})}
KEYED = np.array([[0.7], [0.3], [0.4], [0.9]])


def test_lines_with_keys_may_come_in_any_order(tmp_path: Path) -> None:
    keys = {"axis": ["gene", "hidden"], "keys": ["key"], "tolerance": 1e-6}
    order = [3, 2, 0, 1]
    got = Keyed(KEYED[order], np.array([7, 3, 3, 9])[order])
    assert compared(tmp_path, KEYED, got, keys, **KEYS).passed
    golden = Golden(tmp_path / "toy" / "small")
    assert not compare(golden, golden.arrays["x"], Keyed(KEYED, np.array([9, 3, 3, 7]))).passed


def test_lines_of_other_keys_are_named(tmp_path: Path) -> None:
    keys = {"axis": ["gene", "hidden"], "keys": ["key"]}
    found = compared(tmp_path, KEYED, Keyed(KEYED, [7, 3, 3, 8]), keys, **KEYS)
    assert "(9,)" in (found.problem or "")
    assert "(8,)" in (found.problem or "")
