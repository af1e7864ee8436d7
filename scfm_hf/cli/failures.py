"""How commands fail: one readable paragraph and exit code 1, no traceback; 2 is for wrong usage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def readable_failures(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that a user can do something about into a message and exit code 1; bugs keep their traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

        from scfm_hf.errors import ScfmError

        known = (ScfmError, FileNotFoundError, FileExistsError, PermissionError, KeyError, ValueError, HfHubHTTPError)
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            _say("Interrupted; nothing half-written was left. Start again to go on.")
            raise SystemExit(130) from None
        except (*known, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
            _say("\n".join([str(text), *getattr(error, "__notes__", ())]))
            raise SystemExit(1) from None

    return run


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print("[bold red]error:[/] ", end="")
    print(text, file=sys.stderr)
