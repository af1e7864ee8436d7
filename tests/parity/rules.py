"""What a family's rule table is: which public call gives which array.

A file ``families/<family>.py`` defines ``TABLE``::

    TABLE = RuleTable(
        family="geneformer",
        inputs=("input_ids", "attention_mask"),
        rules=(
            Rule("input_ids", tokens("input_ids"), section="tokens"),
            Rule("hidden_states.{layer}", hidden_state, section="hidden states"),
        ),
        left_out={"delete_*": "in-silico perturbation belongs to the tasks"},
    )

    def hidden_state(context):
        outputs = context.outputs("AutoModel", output_hidden_states=True)
        return outputs["hidden_states"][int(context.parts["layer"])]
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

    from parity.compare import Keyed
    from parity.context import Context
    from parity.golden import Golden, GoldenArray

#: Roles of which every array must have a rule, or a reason to be left out.
REQUIRED_ROLES = ("output", "quirk")
#: Roles that a rule is for unless it says otherwise.
COMPARED_ROLES = (*REQUIRED_ROLES, "internal")


@dataclass(frozen=True)
class Rule:
    """One public call that gives the arrays of one pattern.

    Parameters
    ----------
    pattern
        Of the array's name, with or without the prefix of its case; several in a tuple. ``*`` stands for anything,
        ``{layer}`` for
        one part between dots, which the context then gives as ``parts["layer"]``.
    how
        Computes the array from a :class:`~parity.context.Context`; lines in the order of ``context.cells``.
    section
        Where the array stands in the condensed table: ``tokens``, ``hidden states``, ``cell embedding``, the name of a
        head.
    when
        Further condition on the array, beside the pattern.
    real_tokens
        Compare at the real tokens of the call alone: for arrays that hold padding and name no mask. A function gives
        the mask itself, where it is not the call's ``attention_mask``.
    roles
        Roles of the arrays that it is for. An ``input`` or ``aux`` array is compared only by a rule that names its role
        here, so that a wide pattern takes no row numbers and drawn noise along.
    """

    pattern: str | tuple[str, ...]
    how: Callable[[Context], ArrayLike | Keyed]
    section: str = field(kw_only=True)
    when: Callable[[GoldenArray], bool] = field(default=lambda array: True, kw_only=True)
    real_tokens: bool | Callable[[Context], ArrayLike] = field(default=False, kw_only=True)
    roles: Sequence[str] = field(default=COMPARED_ROLES, kw_only=True)

    def match(self, array: GoldenArray) -> dict[str, str] | None:
        """The parts of the name, None if the rule is not for this array."""
        parts = match(self.pattern, array) if array.role in self.roles else None
        return parts if parts is not None and self.when(array) else None


def _same_folder(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """Arguments of ``convert_checkpoint``: folder, weights and other files as ``golden.json`` names them."""
    del scratch
    chosen = {"weights": golden.weights[weights]} if weights is not None else {}
    files = {role: file for role, file in golden.files.items() if isinstance(file, str)}
    return {"source": golden.checkpoint, **chosen, **({"files": files} if files else {})}


@dataclass(frozen=True, kw_only=True)
class RuleTable:
    """How a family gives its arrays.

    Parameters
    ----------
    family
        Name of the family.
    rules
        In order; the first that matches is taken.
    left_out
        Pattern -> why an array of that name is not compared. Asked before the rules.
    inputs
        Names of the plain inputs of the model, which an array without ``inputs`` was computed from.
    renames
        Argument in the goldens' words -> argument of ``forward``; None drops it.
    conversion
        Gives the arguments of ``convert_checkpoint`` (but ``output`` and ``family``) for a variant, a key of its
        weights
        (or one that a rule made up, see :meth:`~parity.context.Context.using`) and a folder for files of its own.
    """

    family: str
    rules: Sequence[Rule]
    left_out: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[str] = ("input_ids", "attention_mask")
    renames: Mapping[str, str | None] = field(default_factory=dict)
    conversion: Callable[[Golden, str | None, Path], Mapping[str, Any]] = _same_folder

    def find(self, array: GoldenArray) -> tuple[Rule, dict[str, str]] | None:
        """The rule of an array, with the parts of its name."""
        for rule in self.rules:
            parts = rule.match(array)
            if parts is not None:
                return rule, parts
        return None

    def reason_left_out(self, array: GoldenArray) -> str | None:
        """Why an array is left out; None if it is not. Inputs and auxiliaries need no reason."""
        if array.role not in COMPARED_ROLES:
            return None
        return next((reason for pattern, reason in self.left_out.items() if match(pattern, array) is not None), None)


def match(pattern: str | tuple[str, ...], array: GoldenArray) -> dict[str, str] | None:
    """The named parts of an array's name, None if the pattern does not fit it."""
    for one in (pattern,) if isinstance(pattern, str) else pattern:
        for name in (array.name, array.stem):
            found = _expression(one).fullmatch(name)
            if found is not None:
                return found.groupdict()
    return None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*|\{\w+\})", pattern)
    translated = {"*": ".*"}
    return re.compile(
        "".join(
            f"(?P<{piece[1:-1]}>[^.]+)" if piece.startswith("{") else translated.get(piece, re.escape(piece))
            for piece in pieces
        )
    )
