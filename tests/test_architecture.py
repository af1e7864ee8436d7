"""What the import contracts in pyproject.toml cannot say, since families come and go as folders."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[1] / "scfm_hf" / "models"
FAMILIES = sorted(path.parent for path in MODELS.glob("*/family.py"))


def imports(module: Path) -> set[str]:
    """Dotted names of all that a module imports, at its head or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is a package or lies in it."""
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_imports_no_other_family(family: Path) -> None:
    others = [f"scfm_hf.models.{other.name}" for other in FAMILIES if other != family]
    crossing = {
        (module.name, name)
        for module in family.glob("*.py")
        for name in imports(module)
        if any(inside(name, other) for other in others)
    }
    assert crossing == set()


def test_in_models_only_the_conversion_of_a_family_knows_the_conversion_engine() -> None:
    allowed = {MODELS / family.name / f"conversion_{family.name}.py" for family in FAMILIES}
    knowing = {
        module for module in MODELS.rglob("*.py") if any(inside(name, "scfm_hf.conversion") for name in imports(module))
    }
    assert knowing <= allowed


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_folder_holds_the_files_that_a_reader_expects(family: Path) -> None:
    expected = {f"{part}_{family.name}.py" for part in ("configuration", "modeling", "conversion")} | {"family.py"}
    assert expected <= {module.name for module in family.glob("*.py")}
