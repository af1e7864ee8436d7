"""The parity runner on a family made up here: rules, cases, tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from parity.rules import Rule, RuleTable
from parity.runner import Converted, Result, compare_variant, describe, stale_entries
from parity.table import condensed_table, full_table, write_tables
from parity.toy import HIDDEN, IDS, MASK, STATES, make_golden

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from parity.context import Context
    from parity.golden import Golden


def run(golden: Golden, table: RuleTable, tmp_path: Path) -> dict[str, Result]:
    return {result.array: result for result in compare_variant(golden, table, Converted(tmp_path))}


def table_of(*rules: Rule, **left_out: str) -> RuleTable:
    return RuleTable(
        family="toy", rules=rules, left_out={name.replace("_ALL", "*"): why for name, why in left_out.items()}
    )


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
    assert describe([found["bad"]]).startswith("toy/small/bad: KeyError: 'bad'")


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


def test_variants_are_told_apart_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Path] = []
    monkeypatch.setattr("scfm_hf.convert_checkpoint", lambda output, **_: converted.append(output))
    table = replace(table_of(), conversion=lambda golden, weights, scratch: {"source": golden.folder})
    for name in ("one", "other"):
        Converted(tmp_path).folder(make_golden(tmp_path, {}, folder=name), table, None)
    assert len(set(converted)) == 2


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


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_say_what_was_found(tmp_path: Path) -> None:
    same: dict[str, Any] = {"family": "toy", "variant": "small", "role": "output", "tolerance": 1e-5, "weights": None}
    results = [
        Result(**same, array="a", section="states", status="equal", difference=2e-7, scaled=1e-7),
        Result(**same, array="b", section="states", status="different", difference=0.5, scaled=0.2, remark="differs"),
        Result(**same, array="c", section="", status="left out", remark="a task"),
    ]
    assert "| toy | states | 2 | 1 | 5.0e-01 | 2.0e-01 | 1e-05 |" in condensed_table(results)
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
    assert "| toy | head | 2 | 2 | 5.0e-05 | 2.0e-06 | 0.0001 |" in condensed_table([small, large])
