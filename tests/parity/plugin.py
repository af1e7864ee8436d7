"""pytest plugin: gathers what the parity tests found, from all worker processes, and writes the tables at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parity.runner import Converted, Result

_FOUND = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-table",
        metavar="FOLDER",
        default="build/parity",
        help="where the parity tables go (default: build/parity)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = []


@pytest.fixture(scope="session")
def record_parity(request: pytest.FixtureRequest) -> Callable[[Iterable[Result]], None]:
    """Puts results into the tables that are written at the end."""
    found = request.config.stash[_FOUND]
    return lambda results: found.extend(map(asdict, results))


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Converted:
    """Converted golden checkpoints, each made once a session."""
    from parity.runner import Converted

    base = tmp_path_factory.getbasetemp()
    # A worker's own folder lies in the one that all workers of the session share.
    return Converted((base.parent if hasattr(request.config, "workerinput") else base) / "converted")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    del error
    node.config.stash[_FOUND].extend(getattr(node, "workeroutput", {}).get("parity", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash[_FOUND]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = found
    elif found:
        from parity.runner import Result
        from parity.table import write_tables

        folder = Path(session.config.rootpath, session.config.getoption("--parity-table"))
        write_tables([Result(**result) for result in found], folder)
