"""Print the lowest version that pyproject.toml allows of each dependency, as a constraints file for pip."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions(requirements: list[str]) -> dict[str, str]:
    """Name of each required package -> the version after its ``>=``."""
    versions = {}
    for requirement in map(Requirement, requirements):
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{requirement} needs exactly one lower bound (>=).")
        versions[requirement.name] = bounds[0]
    return versions


def direct_requirements(extras: list[str]) -> list[str]:
    """The requirements of the project and of the named extras."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="", help="extras to include, separated by commas")
    parser.add_argument("--but", default=[], nargs="*", help="name==version to print instead of the lowest")
    arguments = parser.parse_args()
    versions = lowest_versions(direct_requirements([extra for extra in arguments.extras.split(",") if extra]))
    versions |= dict(pin.split("==") for pin in arguments.but)
    for name, version in sorted(versions.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
