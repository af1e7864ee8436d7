"""Renaming rules: how the tensors of an original become those of a model, each accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from scfm_hf.errors import CheckpointError


@dataclass(frozen=True)
class Rename:
    """Give a tensor another name, and perhaps another form.

    Parameters
    ----------
    pattern
        Regular expression for the whole name.
    replacement
        The new name, with ``\\1`` for groups.
    change
        What is done to the tensor.
    """

    pattern: str
    replacement: str
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Drop:
    """Leave a tensor out.

    Parameters
    ----------
    pattern
        Regular expression for the whole name.
    reason
        Why it is not needed; the report says it.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class TensorRecord:
    """What became of a tensor of the original.

    Parameters
    ----------
    source
        Its name there.
    target
        Its name in the model, None if it was left out.
    note
        Why it was left out, or how it was changed.
    """

    source: str
    target: str | None
    note: str = ""


def apply_rules(
    tensors: Mapping[str, Tensor], rules: Sequence[Rename | Drop], *, where: str
) -> tuple[dict[str, Tensor], list[TensorRecord]]:
    """Rename all tensors by the first rule that fits each.

    Parameters
    ----------
    tensors
        Of the original.
    rules
        In order of precedence.
    where
        Name of the file, for the message.

    Returns
    -------
    Tensors by their new names, and a record of each.

    Raises
    ------
    CheckpointError
        If no rule fits a tensor, or two get the same name.
    """
    renamed: dict[str, Tensor] = {}
    records: list[TensorRecord] = []
    strange: list[str] = []
    for source, tensor in tensors.items():
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, source)), None)
        if rule is None:
            strange.append(source)
        elif isinstance(rule, Drop):
            records.append(TensorRecord(source, None, rule.reason))
        else:
            target = re.sub(f"^(?:{rule.pattern})$", rule.replacement, source)
            if target in renamed:
                raise CheckpointError(f"{where}: two tensors would be called {target}, the second is {source}.")
            renamed[target] = tensor if rule.change is None else rule.change(tensor)
            records.append(TensorRecord(source, target, "" if rule.change is None else "changed in form"))
    if strange:
        shown = ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        raise CheckpointError(f"{where} holds tensors that this family does not have: {shown}. Is it another model's checkpoint?")
    return renamed, records
