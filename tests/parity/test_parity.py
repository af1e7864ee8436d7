"""The originals' numbers come out of the public path: convert_checkpoint, Auto classes, from_pretrained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parity.golden import DEFAULT_ROOT, Golden, golden_folders, golden_root
from parity.runner import Converted, Result, compare_variant, describe, rule_tables, stale_entries
from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GOLDENS = [Golden(folder) for folder in golden_folders(golden_root())]


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_variant_gives_the_original_numbers(
    golden: Golden, converted: Converted, record_parity: Callable[[Iterable[Result]], None]
) -> None:
    assert golden.family in rule_tables(), f"tests/parity/families/{golden.family}.py is missing"
    results = compare_variant(golden, rule_tables()[golden.family], converted)
    record_parity(results)
    wrong = [result for result in results if result.status in ("different", "failed")]
    compared = sum(result.status != "left out" for result in results)
    assert not wrong, f"{len(wrong)} of {compared} arrays are not as the original's:\n{describe(wrong)}"


@pytest.mark.parametrize("family", sorted(name for name, spec in families().items() if spec.has_original))
def test_every_family_with_an_original_has_a_rule_table(family: str) -> None:
    assert family in rule_tables(), f"tests/parity/families/{family}.py is missing"


@pytest.mark.parametrize("family", sorted(rule_tables()))
def test_no_entry_of_a_rule_table_is_stale(family: str) -> None:
    if golden_root() != DEFAULT_ROOT:
        pytest.skip("another set of goldens may lack arrays")
    stale = stale_entries(rule_tables()[family], [golden for golden in GOLDENS if golden.family == family])
    assert not stale, f"no array needs {', '.join(stale)} of families/{family}.py"
