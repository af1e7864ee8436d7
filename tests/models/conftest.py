"""Every test that takes a ``case`` runs for every class of every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from models.examples import every_class

if TYPE_CHECKING:
    from pathlib import Path

    from models.examples import Case


@pytest.fixture(params=every_class(), ids=lambda case: case.class_name)
def case(request: pytest.FixtureRequest) -> Case:
    """One class of one family."""
    return request.param


@pytest.fixture
def saved(case: Case, tmp_path: Path) -> Path:
    """A folder with a model of the case."""
    case.model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"
