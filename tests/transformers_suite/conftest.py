"""Collects this folder only where tests marked ``full`` are wanted: it asks the package index for sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


#: Marks that transformers' tests bear.
MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "generate",
    "torch_compile_test",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name.startswith("test_") and "not full" in config.getoption("markexpr"):
        return True
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: a mark of transformers' own tests")
    return None
