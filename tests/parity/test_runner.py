"""The parity runner itself, on a family made up here: it must find what is wrong, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from transformers.utils import ModelOutput

from parity.compare import Comparison, Keyed, compare
from parity.context import Context, Variant
from parity.golden import Golden
from parity.rules import Rule, RuleTable
from parity.runner import Converted, Result, compare_variant, stale_entries
from parity.table import condensed_table, full_table, write_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

IDS = np.array([[5, 3, 4, 0], [7, 6, 0, 0], [3, 9, 8, 2]])
MASK = (IDS != 0).astype(np.int64)
STATES = np.linspace(-3, 3, 3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)


def make_golden(folder: Path, arrays: Mapping[str, tuple[Any, dict[str, Any]]], **top: Any) -> Golden:
    """A golden folder: arrays by name, each with the keys of its description that are not derived from it."""
    variant = folder / "toy" / "small"
    variant.mkdir(parents=True)
    values = {name: np.asarray(value) for name, (value, _) in arrays.items()}
    save_file({name: np.array(value, order="C") for name, value in values.items()}, variant / "expected.safetensors")
    described = {
        name: {
            "shape": list(values[name].shape),
            "dtype": str(values[name].dtype),
            "tolerance": 0,
            "meaning": "",
            "role": "output",
            **keys,
        }
        for name, (_, keys) in arrays.items()
    }
    content = {
        "family": "toy",
        "variant": "small",
        "rows": [4, 8, 6],
        "gene_column": "var_names",
        "arrays": described,
        **top,
    }
    (variant / "golden.json").write_text(json.dumps(content), encoding="utf-8")
    return Golden(variant)


def compared(
    tmp_path: Path, stored: Any, got: Any, keys: dict[str, Any], **others: tuple[Any, dict[str, Any]]
) -> Comparison:
    """Compare one array of a folder that holds it and some others."""
    golden = make_golden(tmp_path, {"x": (stored, keys), **others})
    return compare(golden, golden.arrays["x"], got)


def run(golden: Golden, table: RuleTable, tmp_path: Path) -> dict[str, Result]:
    return {result.array: result for result in compare_variant(golden, table, Converted(tmp_path))}


def table_of(*rules: Rule, **left_out: str) -> RuleTable:
    return RuleTable(
        family="toy", rules=rules, left_out={name.replace("_ALL", "*"): why for name, why in left_out.items()}
    )


TOKENS = {"axis": ["cell", "token"]}
HIDDEN = {"axis": ["cell", "token", "hidden"], "tolerance": 1e-5}
ATTENTION_MASK = {"attention_mask": (MASK, {**TOKENS, "role": "aux"})}


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


# --------------------------------------------------------------------------------------------------------------- rules


def test_an_output_without_a_rule_fails_and_a_left_out_one_says_why(tmp_path: Path) -> None:
    arrays = dict.fromkeys(("states", "forgotten", "delete.shift"), (STATES, HIDDEN))
    golden = make_golden(
        tmp_path, {**arrays, "grad.weight": (STATES, {"role": "internal"}), "noise": (IDS, {"role": "input"})}
    )
    found = run(
        golden, table_of(Rule("states", lambda context: STATES, section="states"), delete_ALL="a task"), tmp_path
    )
    assert {name: result.status for name, result in found.items()} == {
        "states": "equal",
        "forgotten": "failed",
        "delete.shift": "left out",
    }
    assert "no rule" in found["forgotten"].remark
    assert found["delete.shift"].remark == "a task"


def test_a_quirk_needs_a_rule_or_a_reason_too(tmp_path: Path) -> None:
    golden = make_golden(tmp_path, {"batched.states": (STATES, {**HIDDEN, "role": "quirk"})})
    assert run(golden, table_of(), tmp_path)["batched.states"].status == "failed"


def test_an_internal_array_is_compared_where_a_rule_matches(tmp_path: Path) -> None:
    golden = make_golden(tmp_path, {"grad.weight": (STATES, {"role": "internal", "tolerance": 1e-3})})
    rule = Rule("grad.*", lambda context: STATES + 1, section="gradients")
    assert run(golden, table_of(rule), tmp_path)["grad.weight"].status == "different"


@pytest.mark.parametrize("role", ["input", "aux"])
def test_inputs_and_auxiliaries_are_compared_only_by_a_rule_that_names_their_role(tmp_path: Path, role: str) -> None:
    golden = make_golden(tmp_path, {"states.length": (MASK.sum(1), {"role": role})})
    wide = Rule("states*", lambda context: STATES, section="states")
    assert run(golden, table_of(wide), tmp_path) == {}
    assert run(golden, table_of(states_ALL="a task"), tmp_path) == {}
    named = Rule("*.length", lambda context: MASK.sum(1) + 1, section="tokens", roles=("input", "aux"))
    assert run(golden, table_of(wide, named), tmp_path)["states.length"].status == "different"
    assert stale_entries(table_of(wide, named), [golden]) == ["the rule 'states*'"]


def test_a_conversion_that_failed_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    golden = make_golden(tmp_path, {"states": (STATES, HIDDEN)})

    def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
        scratch.mkdir()
        raise OSError("the disk is full")

    table = replace(table_of(), conversion=conversion)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is full"):
            Converted(tmp_path).folder(golden, table, None)


def test_a_rule_that_raises_hides_no_other_array(tmp_path: Path) -> None:
    def broken(context: Context) -> NDArray[Any]:
        raise KeyError(context.name)

    golden = make_golden(tmp_path, {"bad": (STATES, HIDDEN), "good": (STATES, HIDDEN)})
    table = table_of(Rule("bad", broken, section=""), Rule("good", lambda context: STATES, section="states"))
    found = run(golden, table, tmp_path)
    assert found["good"].status == "equal"
    assert found["bad"].status == "failed"
    assert "KeyError: 'bad'" in str(found["bad"])
    assert "toy/small/bad" in str(found["bad"])


def test_the_first_rule_that_matches_is_taken_and_knows_the_parts_of_the_name(tmp_path: Path) -> None:
    golden = make_golden(
        tmp_path, {"deep.states.2": (STATES, {**HIDDEN, "case": "deep"}), "states.1": (STATES, HIDDEN)}
    )
    table = table_of(
        Rule("states.{layer}", lambda context: STATES, section="case", when=lambda array: array.case == "deep"),
        Rule("states.{layer}", lambda context: STATES + int(context.parts["layer"]), section="plain"),
    )
    found = run(golden, table, tmp_path)
    assert [found["deep.states.2"].section, found["deep.states.2"].status] == ["case", "equal"]
    assert found["states.1"].status == "different"


def test_entries_that_no_array_needs_are_stale(tmp_path: Path) -> None:
    golden = make_golden(tmp_path, {"states": (STATES, HIDDEN), "left": (STATES, HIDDEN)})
    rule = Rule("states", lambda context: STATES, section="states")
    assert stale_entries(table_of(rule, left="why"), [golden]) == []
    stale = stale_entries(table_of(rule, Rule("gone.*", rule.how, section=""), left="why", missing="why"), [golden])
    assert stale == ["left_out['missing']", "the rule 'gone.*'"]


def test_equal_weights_must_all_give_every_array(tmp_path: Path) -> None:
    names = {"default": "a.pt", "wrapped": "b.pt"}
    golden = make_golden(tmp_path, {"states": (STATES, HIDDEN)}, weights=names, weights_equal=True)
    rule = Rule("states", lambda context: STATES + (context.weights == "wrapped"), section="states")
    found = compare_variant(golden, table_of(rule), Converted(tmp_path))
    assert [(result.weights, result.status) for result in found] == [("default", "equal"), ("wrapped", "different")]


# --------------------------------------------------------------------------------------------------------------- cases


def test_a_case_replaces_what_differs(tmp_path: Path) -> None:
    cases = {"deep": {"rows": [1], "max_length": 9}}
    golden = make_golden(
        tmp_path, {"deep.x": (IDS, {"case": "deep"})}, cases=cases, tokenizer={"max_length": 5, "n_bins": 7}
    )
    case = golden.case("deep")
    assert (case.rows, case.gene_column, dict(case.options)) == ((1,), "var_names", {"max_length": 9, "n_bins": 7})
    assert golden.arrays["deep.x"].stem == "x"


def test_names_and_seeds_are_resolved(tmp_path: Path) -> None:
    keys = {"names": "labels.classes", "seeds": ["torch_sample"]}
    top = {"labels": {"classes": ["a", "b"]}, "seeds": {"numpy": 1, "torch_sample": 3}}
    array = make_golden(tmp_path, {"x": (IDS, keys)}, **top).arrays["x"]
    assert array.names == ["a", "b"]
    assert array.seeds == {"torch_sample": 3}


# --------------------------------------------------------------------------------------------------------------- calls


class MeanOfAll(nn.Module):
    """A model whose cells depend on their padding, so that the batch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: torch.Tensor) -> Any:
        self.calls.append(tuple(input_ids.shape))
        noise = torch.rand(1) if self.training else torch.zeros(1)
        states = self.scale * input_ids.float() + noise
        return MeanOutput(states=states, mean=states.mean(1), loss=states.sum())


@dataclass
class MeanOutput(ModelOutput):
    states: Any = None
    mean: Any = None
    loss: Any = None


class ToyContext(Context):
    """A context whose model needs no checkpoint."""

    toy: MeanOfAll

    @property
    def folder(self) -> Path:
        return self.golden.folder

    def model(self, class_name: str, **options: Any) -> nn.Module:
        return self.toy

    def tokenizer(self) -> Any:
        return SimpleNamespace(pad_token_id=0)


def context_of(tmp_path: Path, **keys: Any) -> ToyContext:
    inputs = {"input_ids": (IDS, TOKENS), "attention_mask": (MASK, TOKENS), "depth": ([1, 2, 3], {"axis": ["cell"]})}
    golden = make_golden(tmp_path, {**inputs, "x": (STATES, {"axis": ["cell"], **keys})}, seeds={"torch_drop": 5})
    array = golden.arrays["x"]
    context = ToyContext(Variant(golden, table_of(), lambda weights: golden.folder), array, None, {})
    context.toy = MeanOfAll().eval()
    return context


def test_cells_run_one_at_a_time_without_padding(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    found = context.outputs("AutoModel")
    assert context.toy.calls == [(1, 3), (1, 2), (1, 4)]
    np.testing.assert_allclose(found["mean"], [4, 6.5, 5.5])
    np.testing.assert_equal(found["states"][1], [7, 6, np.nan, np.nan])
    assert found["loss"].shape == (3,)


@pytest.mark.parametrize(("batch", "shapes"), [("all", [(2, 3)]), (1, [(1, 2), (1, 3)]), (64, [(2, 3)])])
def test_batches_are_padded_to_their_longest_cell(tmp_path: Path, batch: Any, shapes: list[tuple[int, int]]) -> None:
    context = context_of(tmp_path, cells=[1, 0], batch=batch)
    means = context.outputs("AutoModel")["mean"]
    assert context.toy.calls == shapes
    np.testing.assert_allclose(means, [13 / 3, 4] if batch != 1 else [6.5, 4], rtol=1e-6)


def test_arrays_share_the_runs_of_their_cells(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.outputs("AutoModel")
    other = ToyContext(context._variant, replace(context.array, name="y", cells=(2, 0)), None, {})
    other.toy = context.toy
    np.testing.assert_allclose(other.outputs("AutoModel")["mean"], [5.5, 4])
    assert len(context.toy.calls) == 3


def test_named_inputs_are_fed_and_a_mask_that_is_not_named_is_made(tmp_path: Path) -> None:
    context = context_of(
        tmp_path, inputs={"input_ids": "input_ids", "read_depth": "depth", "labels": None}, cells=[2, 1]
    )
    found = context.inputs(rename={"read_depth": "depth"})
    assert sorted(found) == ["attention_mask", "depth", "input_ids"]
    np.testing.assert_array_equal(found["attention_mask"], MASK[[2, 1]])
    np.testing.assert_array_equal(found["depth"], [3, 2])


def test_training_runs_on_a_copy_with_the_seeds_of_the_original(tmp_path: Path) -> None:
    context = context_of(tmp_path, batch="all", mode="train", seeds=["torch_drop"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = context.training_pass("AutoModel")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    np.testing.assert_allclose(found.outputs["states"], IDS + torch.rand(1).numpy())
    np.testing.assert_allclose(found.gradients["scale"], [IDS.sum()])
    assert context.toy.scale.grad is None
    assert not context.toy.training


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_say_what_was_found(tmp_path: Path) -> None:
    same: dict[str, Any] = {"family": "toy", "variant": "small", "role": "output", "tolerance": 1e-5, "weights": None}
    results = [
        Result(**same, array="a", section="states", status="equal", difference=2e-7, scaled=1e-7),
        Result(**same, array="b", section="states", status="different", difference=0.5, scaled=0.5, remark="differs"),
        Result(**same, array="c", section="", status="left out", remark="a task"),
    ]
    assert "| toy | states | 2 | 1 | 5.0e-01 | 1e-05 |" in condensed_table(results)
    assert "- toy: 1 arrays left out" in condensed_table(results)
    assert "| toy | small | `a` | output | equal | 2.0e-07 | 1e-05 |" in full_table(results)
    write_tables(results, tmp_path / "tables")
    assert [entry["array"] for entry in json.loads((tmp_path / "tables" / "parity.json").read_text())] == [
        "a",
        "b",
        "c",
    ]


def test_the_condensed_table_gives_the_largest_difference_and_not_the_largest_scaled_one() -> None:
    same: dict[str, Any] = {"family": "toy", "variant": "small", "role": "output", "weights": None, "section": "head"}
    small = Result(**same, array="small", tolerance=1e-4, status="equal", difference=2e-6, scaled=2e-6)
    large = Result(**same, array="large", tolerance=1e-4, status="equal", difference=5e-5, scaled=1e-6)
    assert "| toy | head | 2 | 2 | 5.0e-05 | 0.0001 |" in condensed_table([small, large])
