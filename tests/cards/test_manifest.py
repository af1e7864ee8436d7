"""The manifest is small, exact and the same each time; a damaged one is refused."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.errors import CheckpointError
from scfm_hf.hub import Manifest, SourceFile

if TYPE_CHECKING:
    from pathlib import Path

hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
sources = st.builds(SourceFile, name=st.text(min_size=1), sha256=hexadecimal, size=st.integers(0))
manifests = st.builds(
    Manifest,
    model_id=st.none() | st.text(),
    sources=st.lists(sources, max_size=3).map(tuple),
    parity=st.dictionaries(st.text(), st.floats(0, 1)),
    vocabulary_digest=st.none() | hexadecimal,
)


@given(manifest=manifests)
def test_written_manifest_reads_back(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")
    first = manifest.write(folder).read_bytes()
    assert Manifest.read(folder) == manifest
    assert Manifest.read(folder).write(folder).read_bytes() == first


def test_source_file_is_described_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    described = SourceFile.of(tmp_path / "model.ckpt", name="release/model.ckpt")
    assert described == SourceFile(
        name="release/model.ckpt", sha256=hashlib.sha256(b"weights").hexdigest(), size=len(b"weights")
    )


def test_versions_of_the_libraries_are_noted() -> None:
    assert {"torch", "transformers", "safetensors"} <= Manifest().libraries.keys()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"unknown": 1}',
        '{"sources": [{"name": "a"}]}',
        '{"sources": [{"name": "a", "sha256": "short", "size": 1}]}',
        json.dumps({"sources": [{"name": "a", "sha256": "a" * 64, "size": -1}]}),
    ],
)
def test_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "scfm_manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="scfm_manifest.json is not a manifest"):
        Manifest.read(tmp_path)


def test_missing_manifest_is_an_ordinary_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path)
