"""Options that differ from family to family, given as ``--option name=value``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

TokenizerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the model's tokenizer, such as species=mouse or slide_key=slide; may be given repeatedly.",
    ),
]


def tokenizer_options(given: Iterable[str] | None, **flags: Any) -> dict[str, Any]:
    """Options given as ``name=value``, and those that have a flag of their own (None if it was not given).

    Raises
    ------
    typer.BadParameter
        If one is not of that form, or is given twice.
    """
    options = {name: value for name, value in flags.items() if value is not None}
    for name, text in pairs(given, "an option of the tokenizer is given as name=value"):
        if name in options:
            raise typer.BadParameter(f"the option {name} is given twice")
        options[name] = plain_value(text)
    return options


def pairs(texts: Iterable[str] | None, form: str) -> list[tuple[str, str]]:
    """Name and value of each ``name=value``; ``form`` says what a text should look like."""
    parts = [text.partition("=") for text in texts or []]
    if not all(name and equals for name, equals, _ in parts):
        raise typer.BadParameter(form)
    return [(name, value) for name, _, value in parts]


def plain_value(text: str) -> Any:
    """A number, true, false, null or a list where the text is one as JSON writes it, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
