"""Processes forked from the tests, so that nothing is imported again; none is waited for for ever."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

#: Seconds after which processes print where each of their threads is, and are killed.
PATIENCE = 300

_SET_SIGNAL_OF_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_the_tests() -> None:
    """From now on, a forked process dies with the one that forked it.

    pytest-xdist waits for all that hold the pipe of a test process, so that a worker of a DataLoader which waits for
    ever would hold up the tests though its parent was ended.
    """
    if sys.platform == "linux":
        set_option = ctypes.CDLL(None).prctl
        os.register_at_fork(after_in_child=lambda: set_option(_SET_SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL))


def in_a_process(
    function: Callable[..., Any], *arguments: Any, kill_after: float | None = None, **options: Any
) -> int | None:
    """Call a function in a process of its own; its exit code. ``kill_after``: kill it after so many seconds."""
    process = fork(function, *arguments, **options)
    if kill_after is not None:
        process.join(kill_after)
        process.kill()
    return exit_codes(process)[0]


def fork(function: Callable[..., Any], *arguments: Any, **options: Any) -> BaseProcess:
    """Start a process that calls a function, and that may be killed at any moment."""

    def call() -> None:
        # Else the tests and all that they fork share one lock: who is killed while holding it never gives it back.
        tqdm.set_lock(threading.RLock())
        faulthandler.register(signal.SIGUSR1)
        function(*arguments, **options)

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    return process


def exit_codes(*processes: BaseProcess) -> list[int | None]:
    """Wait for processes, and end the others once one has died, as torchrun does.

    Raises
    ------
    TimeoutError
        If it lasts too long; standard error then says where they were.
    """
    deadline = time.monotonic() + PATIENCE
    while running := [process for process in processes if process.is_alive()]:
        late = time.monotonic() > deadline
        for process in running:
            if late:
                os.kill(process.pid or 0, signal.SIGUSR1)
                time.sleep(1)
            if late or any(other.exitcode for other in processes):
                process.kill()
                process.join()
        if late:
            raise TimeoutError(f"{len(running)} of {len(processes)} processes were running after {PATIENCE} s.")
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=1)
    return [process.exitcode for process in processes]
