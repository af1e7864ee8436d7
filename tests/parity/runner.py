"""Compares every array of a golden folder by its family's rule table."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock

from parity import families as tables
from parity.compare import Comparison, compare
from parity.context import Context
from parity.rules import COMPARED_ROLES, REQUIRED_ROLES, RuleTable, match
from parity.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from parity.golden import Golden, GoldenArray

Status = Literal["equal", "different", "failed", "left out"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one array.

    Parameters
    ----------
    family, variant, array, role, tolerance
        Which one.
    weights
        Key of the weights that gave it.
    section
        Where it stands in the condensed table.
    status
        ``equal`` within the tolerance, ``different``, ``failed`` (no rule, or the rule raised) or ``left out``.
    difference, scaled
        Largest absolute difference, and the largest in units of 1 + |expected|; None where nothing was compared.
    remark
        What is wrong, or why it is left out.
    """

    family: str
    variant: str
    array: str
    role: str
    tolerance: float
    weights: str | None
    section: str
    status: Status
    difference: float | None = None
    scaled: float | None = None
    remark: str = ""

    def __str__(self) -> str:
        by = f" (weights {self.weights})" if self.weights not in (None, "default") else ""
        return f"{self.family}/{self.variant}/{self.array}{by}"


def describe(results: Iterable[Result]) -> str:
    """Results with what is wrong, a line a remark: one failure is often that of many arrays."""
    by_remark: dict[str, list[str]] = {}
    for result in results:
        by_remark.setdefault(result.remark, []).append(str(result))
    return "\n".join(f"{', '.join(names)}: {remark}" for remark, names in by_remark.items())


def rule_tables() -> Mapping[str, RuleTable]:
    """The rule table of each registered family that has one."""
    from scfm_hf.models.registry import families

    names = sorted({module.name for module in pkgutil.iter_modules(tables.__path__)} & set(families()))
    return {name: importlib.import_module(f"{tables.__name__}.{name}").TABLE for name in names}


def compare_variant(golden: Golden, table: RuleTable, converted: Converted) -> list[Result]:
    """Compare all arrays of a variant that are to be compared; never stops at one that differs.

    An output or a quirk must be matched by a rule or be left out for a reason; any other array is compared where a rule
    is for it.
    """
    variant = Variant(golden, table, lambda weights: converted.folder(golden, table, weights))
    results: list[Result] = []
    for array in golden.arrays.values():
        results += _results_of(variant, array)
    return results


def _results_of(variant: Variant, array: GoldenArray) -> Iterable[Result]:
    golden, table = variant.golden, variant.table
    same: dict[str, Any] = {
        "family": golden.family,
        "variant": golden.variant,
        "array": array.name,
        "role": array.role,
        "tolerance": array.tolerance,
    }
    reason = table.reason_left_out(array)
    if reason is not None:
        yield Result(**same, weights=None, section="", status="left out", remark=reason)
        return
    found = table.find(array)
    if found is None:
        if array.role in REQUIRED_ROLES:
            remark = (
                f"no rule of families/{table.family}.py matches this {array.role}, and it is not left out for a reason"
            )
            yield Result(**same, weights=None, section="", status="failed", remark=remark)
        return
    rule, parts = found
    for weights in golden.weights_of(array):
        yield Result(**same, weights=weights, section=rule.section, **_outcome(variant, array, weights, rule, parts))


def _outcome(
    variant: Variant, array: GoldenArray, weights: str | None, rule: Any, parts: Mapping[str, str]
) -> dict[str, Any]:
    try:
        context = Context(variant, array, weights, parts)
        real = None
        if rule.real_tokens and array.where is None:
            given = rule.real_tokens
            real = np.asarray(given(context)) if callable(given) else context.inputs()["attention_mask"]
        comparison: Comparison = compare(variant.golden, array, rule.how(context), real=real)
    except Exception as error:  # noqa: BLE001 - the other arrays of the variant are still compared
        # The innermost call tells more than the runner's own; the rule's line tells where to look in the table.
        frames = traceback.extract_tb(error.__traceback__)
        shown = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (frames[1:2] + frames[-1:]))
        return {"status": "failed", "remark": f"{type(error).__name__}: {error} [{', '.join(shown)}]"}
    return {
        "status": "equal" if comparison.passed else "different",
        "difference": comparison.difference,
        "scaled": comparison.scaled,
        "remark": comparison.problem or "",
    }


def stale_entries(table: RuleTable, goldens: Iterable[Golden]) -> list[str]:
    """Rules and left-out patterns that no array needs: what they were for is gone, or they are misspelt."""
    arrays = [array for golden in goldens for array in golden.arrays.values()]
    used = {id(found[0]) for array in arrays if table.reason_left_out(array) is None and (found := table.find(array))}
    stale = [
        f"left_out[{pattern!r}]"
        for pattern in table.left_out
        if not any(match(pattern, array) is not None for array in arrays if array.role in COMPARED_ROLES)
    ]
    return stale + [f"the rule {rule.pattern!r}" for rule in table.rules if id(rule) not in used]


class Converted:
    """Converted checkpoints of a test session, shared by its worker processes.

    Parameters
    ----------
    folder
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, golden: Golden, table: RuleTable, weights: str | None) -> Path:
        """Folder of a converted checkpoint, converted by the public call when first needed."""
        from scfm_hf import convert_checkpoint

        # The folder tells variants apart, whatever they are called inside.
        output = self._folder.joinpath(*golden.folder.parts[-2:], weights or "model")
        output.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{output}.lock"):
            if not output.exists():
                try:
                    scratch = output.with_name(f"{output.name}.source")
                    shutil.rmtree(scratch, ignore_errors=True)
                    arguments = table.conversion(golden, weights, scratch)
                    convert_checkpoint(output=output, family=golden.family, **arguments)
                except BaseException:
                    shutil.rmtree(output, ignore_errors=True)
                    raise
        return output
