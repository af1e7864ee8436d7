"""Renaming rules: how the tensors of an original become those of a model, each accounted for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Rename:
    r"""Give a tensor another name, and perhaps another form.

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
class Split:
    r"""Cut a tensor along its first axis into several: queries, keys and values that stand one after the other.

    Parameters
    ----------
    pattern
        Regular expression for the whole name.
    replacements
        Names of the parts, in order, with ``\1`` for groups.
    sizes
        Gives the rows of each part from the tensor; None: equal parts.
    """

    pattern: str
    replacements: tuple[str, ...]
    sizes: Callable[[Tensor], Sequence[int]] | None = None

    def cut(self, tensor: Tensor) -> Sequence[Tensor]:
        """The parts, each with memory of its own.

        Raises
        ------
        ValueError
            If the rows do not make the parts.
        """
        sizes = [len(tensor) // len(self.replacements)] * len(self.replacements)
        sizes = sizes if self.sizes is None else list(self.sizes(tensor))
        if sum(sizes) != len(tensor) or len(sizes) != len(self.replacements):
            raise ValueError(f"{len(tensor)} rows do not make {len(self.replacements)} parts of {sizes}")
        return [part.clone() for part in tensor.split(sizes)]


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
    tensors: Mapping[str, Tensor], rules: Sequence[Rename | Split | Drop], *, where: str
) -> tuple[dict[str, Tensor], list[TensorRecord]]:
    """Rename all tensors, each by the first rule that fits its name.

    Parameters
    ----------
    tensors
        Name in the original -> tensor.
    rules
        Rules, in order.
    where
        Name of the file, for messages.

    Returns
    -------
    Tensors by the names of the model, and a record of each.

    Raises
    ------
    CheckpointError
        If no rule fits a tensor, two get the same name, or one cannot be changed as its rule says.
    """
    renamed: dict[str, Tensor] = {}
    records: list[TensorRecord] = []
    strange: list[str] = []
    for source, tensor in tensors.items():
        rule, match = next(
            ((rule, match) for rule in rules if (match := re.fullmatch(rule.pattern, source))), (None, None)
        )
        if rule is None or match is None:
            strange.append(source)
            continue
        if isinstance(rule, Drop):
            records.append(TensorRecord(source, None, rule.reason))
            continue
        for template, part, note in _parts(rule, source, tensor, where):
            target = match.expand(template)
            if target in renamed:
                raise CheckpointError(f"{where}: two tensors would be called {target}, the second is {source}.")
            renamed[target] = part
            records.append(TensorRecord(source, target, note))
    if strange:
        shown = ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        raise CheckpointError(
            f"{where} holds tensors that this family does not have: {shown}. Is it another model's checkpoint?"
        )
    return renamed, records


def strip_prefix(
    tensors: Mapping[str, Tensor], records: Sequence[TensorRecord], prefix: str
) -> tuple[dict[str, Tensor], list[TensorRecord]]:
    """Tensors and records of a model without heads, whose names lack the prefix that the body has under a head."""
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return bare, [replace(record, target=record.target and record.target.removeprefix(prefix)) for record in records]


def _parts(rule: Rename | Split, source: str, tensor: Tensor, where: str) -> Iterator[tuple[str, Tensor, str]]:
    """Name (with groups), tensor and note of all that a rule makes of one tensor."""
    try:
        if isinstance(rule, Split):
            for template, part in zip(rule.replacements, rule.cut(tensor), strict=True):
                yield template, part, "a part of it"
        elif rule.change is None:
            yield rule.replacement, tensor, ""
        else:
            yield rule.replacement, rule.change(tensor), "changed in form"
    except (ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"{where}: {source} of the shape {tuple(tensor.shape)} has no form that fits ({error})."
        ) from error
