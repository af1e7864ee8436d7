"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scfm_hf.folders import whole_folder


def test_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a" / "model") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "model").exists()
    assert (tmp_path / "a" / "model" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_appears_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_folder(tmp_path / "model") as folder:
        (folder / "file").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_when_the_block_fails(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    with pytest.raises(ValueError, match="stop"), whole_folder(tmp_path / "model", replace=True):
        raise ValueError("stop")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]


def test_what_was_there_stays_when_the_move_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    rename = Path.rename

    def fail_for_the_new(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no space"), whole_folder(tmp_path / "model", replace=True):
        pass
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    with whole_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("replace", [False, True])
def test_file_is_never_replaced(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "model", replace=replace):
        pass
    assert (tmp_path / "model").read_text() == "mine"
