"""A pytest plugin: every test run talks to a hub on loopback, and never to another one.

``huggingface_hub`` reads its environment once, when it is imported. This plugin is therefore to be loaded before any
test module is (``pytest_plugins`` in the top conftest): it starts the hub and points the environment to it right away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from hub_server.server import HubServer

if TYPE_CHECKING:
    from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="scfm-hub-cache-")
_HUB = HubServer().start()

#: What makes a process talk to the hub on loopback, as its owner, with a cache of its own.
ENVIRONMENT = {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": _CACHE.name,
    "HF_TOKEN": "hf_owner",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}

for _name in (
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
):
    os.environ.pop(_name, None)
if "huggingface_hub" in sys.modules:
    raise pytest.UsageError(
        "hub_server.fixtures must be loaded before huggingface_hub is imported: see its documentation."
    )
os.environ.update(ENVIRONMENT)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The hub on loopback; no request is intercepted when a test begins."""
    _HUB.intercept = None
    _HUB.log.clear()
    yield _HUB
    _HUB.intercept = None


@pytest.fixture
def repo_id() -> str:
    """Name of a repository of the owner's that no other test uses."""
    return f"owner/test-{uuid.uuid4().hex[:12]}"


RunPython = Callable[..., Any]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run Python code in a fresh process with an empty cache, and return what it prints last, read as JSON.

    ``run_python(code, argument, ..., NAME=value)``: arguments are ``sys.argv[1:]``, names go into the environment; a
    value of None takes a variable away, and ``HF_HOME=`` shares a cache between calls.
    """

    def run(code: str, *arguments: object, **environment: str | None) -> Any:
        changes = {"HF_HOME": str(tmp_path / f"cache-{uuid.uuid4().hex[:8]}"), "OMP_NUM_THREADS": "1", **environment}
        merged = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=merged, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
