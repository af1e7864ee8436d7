"""Folders and files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scfm_hf.folders import refuse_taken, whole_file, whole_folder


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


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "cells.h5ad"
    with whole_file(target) as path:
        path.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), whole_file(target, replace=True) as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["cells.h5ad"]


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "cells.h5ad"
    target.write_text("old")
    with pytest.raises(FileExistsError), whole_file(target):
        raise AssertionError("refused before the block runs")
    with whole_file(target, replace=True) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    with pytest.raises(FileExistsError), whole_file(tmp_path, replace=True):
        raise AssertionError("a folder is never replaced by a file")


def test_only_an_earlier_result_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refuse_taken(tmp_path, replaceable=["config.json"])
    with pytest.raises(FileExistsError):
        refuse_taken(tmp_path, replaceable=["adapter_config.json"])
