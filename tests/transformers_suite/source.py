"""Fetches transformers' own model tests from its source distribution: they are in no installed package."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import transformers
from filelock import FileLock

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "build" / f"transformers-{transformers.__version__}"
PACKAGE = "transformers_own_tests"

#: Two modules that the tests import but that the source distribution lacks; their mixins are empty.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def common_model_tests() -> ModuleType:
    """The module that has ``ModelTesterMixin``, of the installed release; kept in ``build/`` once fetched.

    Raises
    ------
    OSError
        If the package index does not give the source distribution.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock", timeout=300):
        if not (FOLDER / "complete").exists():
            unpack(fetch())
            (FOLDER / "complete").touch()
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(f"{PACKAGE}.test_modeling_common")


def fetch() -> Path:
    """Download the source distribution."""
    wanted = f"transformers=={transformers.__version__}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        wanted,
        "-d",
        str(FOLDER),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise OSError(f"pip could not download the sources of {wanted}: {done.stderr.strip()[-500:]}")
    return next(FOLDER.glob("transformers-*.tar.gz"))


def unpack(archive: Path) -> None:
    """Unpack the common tests, and put the two missing modules beside them."""
    package = FOLDER / PACKAGE
    package.mkdir(exist_ok=True)
    with tarfile.open(archive) as files:
        for member in files:
            inside = PurePosixPath(member.name).parts[1:]
            if member.isfile() and len(inside) == 2 and inside[0] == "tests" and inside[1].endswith(".py"):
                (package / inside[1]).write_bytes(files.extractfile(member).read())
    for name, text in STUBS.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).parent.joinpath("__init__.py").touch()
        (package / name).write_text(text)
    (package / "__init__.py").touch()
