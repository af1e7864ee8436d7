"""Ranks over gloo on loopback, as torchrun starts them, forked from the tests so that nothing is imported again."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from processes import exit_codes, fork

if TYPE_CHECKING:
    from collections.abc import Callable


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[int | None]:
    """Call a function on several ranks, and end the others once one has died, as torchrun does; their exit codes."""
    port = _free_port()
    return exit_codes(
        *(fork(_on_rank, rank, world_size, port, function, arguments, options) for rank in range(world_size))
    )


def _on_rank(
    rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: Any, options: dict[str, Any]
) -> None:
    """What torchrun would have told the rank; nothing that the tests have told accelerate is left."""
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    if world_size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
    function(*arguments, **options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
