"""The repository itself: sizes, names, nothing of one machine, and dependencies that resolve."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scfm_hf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scfm_hf"
MIB = 2**20

# A letter of each word stands in brackets, so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)/")
PACKAGE_INDEXES = re.compile(
    r"py[p]i\.org|pythonhoste[d]|download\.pytorc[h]|registry\.npm[j]s|deb\.debi[a]n|crates\.i[o]"
)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks and that is there."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    """``file:line`` of each match; files that are not text are passed over."""
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    return found


def test_no_tracked_file_is_larger_than_15_mib(tracked: list[Path]) -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size / MIB for path in tracked if path.stat().st_size > 15 * MIB
    }
    assert not large


def test_the_tracked_files_stay_under_60_mib(tracked: list[Path]) -> None:
    assert sum(path.stat().st_size for path in tracked) < 60 * MIB


def test_no_tracked_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    assert lines_matching(MACHINE_PATHS, tracked) == []


def test_no_tracked_file_names_the_host_of_a_package_index(tracked: list[Path]) -> None:
    assert lines_matching(PACKAGE_INDEXES, tracked) == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [
        str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py") if drawers & {path.stem, path.parent.name}
    ] == []


def test_every_module_is_under_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def requirements_of_the_project() -> list[str]:
    """Every requirement in pyproject.toml, all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]


def pinned_versions() -> dict[str, str]:
    """Name -> version of every line in constraints.txt."""
    pins = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}


@pytest.mark.parametrize("line", requirements_of_the_project())
def test_the_pinned_version_of_each_dependency_is_allowed(line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier.contains(pinned_versions()[canonicalize_name(requirement.name)])


def test_the_version_is_said_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version("scfm-hf") == scfm_hf.__version__ == project["version"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.full
def test_the_lowest_versions_resolve(tmp_path: Path) -> None:
    """Asks the package index; nothing is installed. `make test-lowest` installs them and runs the tests."""
    lowest = tmp_path / "lowest.txt"
    script = [sys.executable, "scripts/lowest_versions.py", "--extras", "test,plots"]
    lowest.write_text(subprocess.run(script, cwd=ROOT, capture_output=True, check=True, text=True).stdout)
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    run = subprocess.run([*pip, "-c", str(lowest), ".[test,plots]"], cwd=ROOT, capture_output=True, text=True)
    if "No matching distribution found" in run.stderr and "from versions: none" in run.stderr:
        pytest.skip("no package index within reach")
    assert run.returncode == 0, run.stderr
