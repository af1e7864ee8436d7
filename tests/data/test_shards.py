"""Token shards: the rows of the tokenizer, written once, whole, and the same after any interruption."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import anndata
import datasets
import numpy as np
import pytest
from processes import in_a_process
from transformers import AutoTokenizer

from scfm_hf.data import shard_writer
from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.shard_manifest import ShardManifest
from scfm_hf.data.shards import tokenize_corpus
from scfm_hf.errors import CorpusError
from scfm_hf.models.released import released_tokenizers
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_hf.tokenization import CellTokenizer


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` rests for five seconds after each epoch of a shuffled stream."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture(scope="session")
def tokenizer(corpus_cells: anndata.AnnData) -> CellTokenizer:
    return rank_tokenizer(corpus_cells, min_cells=2, max_length=512)


def tokenize(corpus: Path, tokenizer: CellTokenizer, output: Path, **options: Any) -> ShardManifest:
    return tokenize_corpus(corpus, tokenizer, output, **{"shard_size": 8, "progress": False, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> datasets.Dataset:
    files = sorted(str(path) for path in folder.glob("data/*.parquet"))
    return datasets.Dataset.from_parquet(files, cache_dir=str(folder.parent / "cache"))


@pytest.fixture(scope="module")
def shards(corpus_folder: Path, tokenizer: CellTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of three files, in nine shards of whole blocks of eight cells."""
    folder = tmp_path_factory.mktemp("tokenised") / "shards"
    tokenize(corpus_folder, tokenizer, folder, labels="cell_type", columns=["cell"], licence="cc-by-4.0")
    return folder


def test_rows_are_what_the_tokenizer_makes_of_the_cells_in_the_order_of_the_files(
    corpus_cells: anndata.AnnData, tokenizer: CellTokenizer, tmp_path: Path
) -> None:
    corpus_cells.write_h5ad(tmp_path / "cells.h5ad")
    manifest = tokenize(tmp_path / "cells.h5ad", tokenizer, tmp_path / "out", labels="cell_type")
    direct = tokenizer.to_dataset(corpus_cells, labels="cell_type")
    written = rows(tmp_path / "out")
    assert manifest.n_rows == len(written) == len(direct) == 72
    assert manifest.n_tokens == sum(direct["length"])
    assert written.features["labels"] == direct.features["labels"]
    for name in ("input_ids", "length", "cell_id", "labels"):
        assert list(written[name]) == list(direct[name])


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(set(released_tokenizers()) - {"scgpt-spatial-v1"}))
def test_shards_of_every_family_hold_what_its_tokenizer_gives(
    name: str, human_pbmc: anndata.AnnData, data_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released_tokenizers()[name])
    tokenize(data_dir / "human_pbmc.h5ad", tokenizer, tmp_path / "out", shard_size=64, min_overlap=0.05)
    direct = tokenizer.to_dataset(human_pbmc, min_overlap=0.05)
    assert rows(tmp_path / "out").to_dict() == {**direct.to_dict()}


def test_a_tokenizer_that_must_see_all_cells_first_is_refused(data_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released_tokenizers()["scgpt-spatial-v1"])
    with pytest.raises(ValueError, match="looks at all cells of a file"):
        tokenize(data_dir / "human_pbmc.h5ad", tokenizer, tmp_path / "out")


def test_columns_keep_their_types(corpus_cells: anndata.AnnData, tokenizer: CellTokenizer, tmp_path: Path) -> None:
    cells = corpus_cells.copy()
    cells.obs["share"] = np.linspace(0, 1, 72).astype(np.float32)
    cells.obs["primary"] = np.arange(72) % 2 == 0
    cells.obs["donor"] = np.array(["one", None] * 36, object)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    columns = ["share", "primary", "donor", "cell"]
    tokenize(tmp_path / "cells.h5ad", tokenizer, tmp_path / "out", columns=columns)
    written = rows(tmp_path / "out")
    assert {name: written.features[name].dtype for name in columns} == {
        "share": "float32",
        "primary": "bool",
        "donor": "string",
        "cell": "int64",
    }
    assert written[1]["donor"] is None
    assert written[2] == written[2] | {"donor": "one", "primary": True, "cell": 2}


def test_the_manifest_lists_shards_files_and_tokenizer(shards: Path, corpus_folder: Path) -> None:
    manifest = ShardManifest.from_json((shards / "manifest.json").read_text(), place="here")
    assert [file["file"] for file in manifest.files] == ["a.h5ad", "b.h5ad", "c.zarr"]
    assert manifest.n_rows == 72
    assert sum(shard.bytes for shard in manifest.shards) == sum(len(part) for part in content(shards / "data").values())
    assert list(json.loads((shards / "manifest.json").read_text()))[-1] == "complete"
    assert sorted(path.name for path in shards.iterdir()) == ["README.md", "data", "manifest.json", "tokenizer"]


def test_the_mixed_order_is_that_of_the_stream(corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path) -> None:
    tokenize(corpus_folder, tokenizer, tmp_path / "out", order="mixed", shard_size=24, seed=3)
    stream = load_corpus(corpus_folder, tokenizer=tokenizer, cell_ids=True, block_size=24, window_size=24, seed=3)
    assert list(rows(tmp_path / "out")["cell_id"]) == [cell["cell_id"] for cell in stream]


def test_datasets_reads_the_folder_by_its_card(shards: Path, tmp_path: Path) -> None:
    whole = datasets.load_dataset(str(shards), split="train", cache_dir=str(tmp_path))
    stream = datasets.load_dataset(str(shards), split="train", streaming=True)
    assert whole.features == stream.features
    assert list(whole["cell"]) == [cell["cell"] for cell in stream] == list(range(72))
    mixed = [cell["cell"] for cell in stream.shuffle(seed=0, buffer_size=16)]
    assert mixed != list(range(72))
    assert sorted(mixed) == list(range(72))
    assert datasets.load_dataset_builder(str(shards)).info.splits["train"].num_examples == 72
    assert "license: cc-by-4.0" in (shards / "README.md").read_text()


@pytest.mark.slow
def test_several_processes_write_the_same(
    corpus_folder: Path, tokenizer: CellTokenizer, shards: Path, tmp_path: Path
) -> None:
    options = {"labels": "cell_type", "columns": ["cell"], "licence": "cc-by-4.0", "workers": 2}
    tokenize(corpus_folder, tokenizer, tmp_path / "shards", **options)
    assert content(tmp_path / "shards") == content(shards)


def stopped_after(n_shards: int) -> Any:
    """A way to call the writer that fails in the middle."""

    def call(write: Any, numbers: Any) -> Any:
        for number in numbers[:n_shards]:
            yield write(number)
        raise KeyboardInterrupt

    return call


def begin(corpus: Path, tokenizer: CellTokenizer, output: Path, n_shards: int = 4, **options: Any) -> Path:
    """Write some shards and stop; where they are."""
    with pytest.raises(KeyboardInterrupt):
        tokenize(corpus, tokenizer, output, map_shards=stopped_after(n_shards), **options)
    assert not output.exists()
    return output.parent / f".{output.name}.unfinished"


def test_a_run_that_was_stopped_goes_on(
    corpus_folder: Path, tokenizer: CellTokenizer, shards: Path, tmp_path: Path
) -> None:
    options = {"labels": "cell_type", "columns": ["cell"], "licence": "cc-by-4.0"}
    unfinished = begin(corpus_folder, tokenizer, tmp_path / "shards", **options)
    first, second, third, _ = sorted(unfinished.glob("data/*.parquet"))
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-1])  # cut off
    third.unlink()
    (unfinished / "data" / "left.partial").write_bytes(b"half")
    again: list[int] = []

    def note(write: Any, numbers: Any) -> Any:
        again.extend(numbers)
        return map(write, numbers)

    tokenize(corpus_folder, tokenizer, tmp_path / "shards", map_shards=note, **options)
    assert again == [1, 2, *range(4, 9)]
    assert (tmp_path / "shards" / "data" / first.name).stat().st_mtime_ns == kept
    assert content(tmp_path / "shards") == content(shards)
    assert not unfinished.exists()


def test_going_on_with_anything_else_is_refused(
    corpus_folder: Path, tokenizer: CellTokenizer, corpus_cells: anndata.AnnData, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_folder, corpus)
    unfinished = begin(corpus, tokenizer, tmp_path / "out")
    other = rank_tokenizer(corpus_cells[:40], min_cells=2, max_length=512)
    with pytest.raises(CorpusError, match=r"begun otherwise \(tokenizer: "):
        tokenize(corpus, other, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"begun otherwise \(.*options: "):
        tokenize(corpus, tokenizer, tmp_path / "out", labels="cell_type")
    changed = anndata.read_h5ad(corpus / "b.h5ad")
    again = begin(corpus, tokenizer, tmp_path / "labelled", labels="cell_type")
    changed.obs["cell_type"] = "another"
    changed.write_h5ad(corpus / "b.h5ad")
    with pytest.raises(CorpusError, match=r"begun otherwise \(annotation: "):
        tokenize(corpus, tokenizer, tmp_path / "labelled", labels="cell_type")
    shutil.rmtree(again)
    changed[::-1].copy().write_h5ad(corpus / "b.h5ad")
    with pytest.raises(CorpusError, match=r"other files \(missing or changed: b\.h5ad\)"):
        tokenize(corpus, tokenizer, tmp_path / "out")
    shutil.rmtree(unfinished)
    assert tokenize(corpus, tokenizer, tmp_path / "out").n_rows == 72


def test_shards_that_are_cut_elsewhere_are_not_gone_on_with(
    corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path
) -> None:
    begin(corpus_folder, tokenizer, tmp_path / "out", shard_size=16)
    # As many shards, but of blocks of 17 rows: cells between the old and the new ones would be lost.
    with pytest.raises(CorpusError, match=r"begun otherwise \(block_size: 16 before, 17 now"):
        tokenize(corpus_folder, tokenizer, tmp_path / "out", shard_size=17)


def test_what_is_there_is_replaced_only_on_request(
    corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path
) -> None:
    tokenize(corpus_folder, tokenizer, tmp_path / "out")
    with pytest.raises(FileExistsError):
        tokenize(corpus_folder, tokenizer, tmp_path / "out", max_length=100)
    assert tokenize(corpus_folder, tokenizer, tmp_path / "out", max_length=100, overwrite=True).n_tokens <= 7200
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError):
        tokenize(corpus_folder, tokenizer, tmp_path / "mine", overwrite=True)


def test_a_file_that_cannot_be_read_is_named_or_skipped_and_listed(
    corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(corpus_folder, corpus)
    (corpus / "b.h5ad").write_bytes((corpus / "b.h5ad").read_bytes()[:5000])
    with pytest.raises(CorpusError, match=r"b\.h5ad cannot be read"):
        tokenize(corpus, tokenizer, tmp_path / "out")
    manifest = tokenize(corpus, tokenizer, tmp_path / "out", on_error="skip")
    assert manifest.n_rows == 47
    assert "b.h5ad" in next(iter(manifest.skipped))


def test_on_a_full_disk_nothing_half_written_stays_and_the_run_goes_on_later(
    corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full_after_five(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.os, "fsync", full_after_five)
        with pytest.raises(CorpusError, match=r"The disk is full: .*\.out\.unfinished"):
            tokenize(corpus_folder, tokenizer, tmp_path / "out")
    left = [path.name for path in (tmp_path / ".out.unfinished").rglob("*") if path.is_file()]
    assert sorted(left) == [
        "plan.json",
        "train-00000-of-00009.json",
        "train-00000-of-00009.parquet",
        "train-00001-of-00009.json",
        "train-00001-of-00009.parquet",
    ]
    assert tokenize(corpus_folder, tokenizer, tmp_path / "out").n_rows == 72


def test_on_a_disk_that_is_really_full(corpus_folder: Path, tokenizer: CellTokenizer, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small file system")
    try:
        with pytest.raises(CorpusError, match="The disk is full"):
            tokenize(corpus_folder, tokenizer, disk / "out")
        assert not list(disk.rglob("*.partial"))
        subprocess.run([*mount[:4], "remount,size=4m", *mount[5:]], check=True)
        assert tokenize(corpus_folder, tokenizer, disk / "out").n_rows == 72
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_killed_runs(corpus: Path, tokenizer: CellTokenizer, expected: Path, folder: Path, n_kills: int) -> None:
    """Kill a run n times at random moments, let it finish, and compare."""
    chance, killed = random.Random(0), 0
    timed, output = folder / "timed" / "shards", folder / "shards"
    options = {"labels": "cell_type", "columns": ["cell"], "licence": "cc-by-4.0", "shard_size": 4, "progress": False}
    tokenize_corpus(corpus, tokenizer, timed, **options)
    usual = 2.0
    while killed < n_kills:
        started = time.monotonic()
        code = in_a_process(
            tokenize_corpus, corpus, tokenizer, output, kill_after=chance.uniform(0.3, 1) * usual, **options
        )
        if code == -signal.SIGKILL:
            killed += 1
        else:
            assert code == 0
            usual = time.monotonic() - started  # so that it is killed sooner, however long it takes now
        if output.exists():  # whole, though it may have been killed a moment later
            assert content(output) == content(timed)
            shutil.rmtree(output)
    if not output.exists():
        tokenize_corpus(corpus, tokenizer, output, **options)
    assert content(output) == content(timed)
    assert list(rows(output)["input_ids"]) == list(rows(expected)["input_ids"])


def test_a_killed_run_goes_on_to_the_same_bytes(
    corpus_folder: Path, tokenizer: CellTokenizer, shards: Path, tmp_path: Path
) -> None:
    check_killed_runs(corpus_folder, tokenizer, shards, tmp_path, n_kills=5)


@pytest.mark.full
def test_a_run_that_is_killed_many_times_goes_on_to_the_same_bytes(
    corpus_folder: Path, tokenizer: CellTokenizer, shards: Path, tmp_path: Path
) -> None:
    check_killed_runs(corpus_folder, tokenizer, shards, tmp_path, n_kills=50)
