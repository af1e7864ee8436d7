"""Shards that Ray writes are those of one process, byte by byte."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

import pytest

from scfm_hf.data.ray_data import map_on_ray
from scfm_hf.data.shards import tokenize_corpus
from scfm_hf.errors import CorpusError
from scfm_hf.models.released import released_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# Ray Data warns of its own settings, and leaves files open.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]


@pytest.mark.extras
@pytest.mark.parametrize("order", ["files", "mixed"])
def test_shards_written_on_ray_are_those_of_one_process(
    ray: Any, corpus_folder: Path, tmp_path: Path, order: Literal["files", "mixed"]
) -> None:
    """Byte by byte, with the same manifest; also where some were there from a run that was stopped."""
    tokenizer = released_tokenizer("geneformer-v2")
    options: dict[str, Any] = {"labels": "cell_type", "shard_size": 12, "order": order, "progress": False}
    for name in ("here", "on_ray"):
        work = {"map_shards": map_on_ray} if name == "on_ray" else {}
        tokenize_corpus(corpus_folder, tokenizer, tmp_path / name / "tokens", **options, **work)
    here, there = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "here" / "tokens", tmp_path / "on_ray" / "tokens")
    )
    assert len([path for path in here if path.suffix == ".parquet"]) == 6
    assert here == there


@pytest.mark.extras
def test_a_damaged_file_is_named_and_the_other_shards_are_kept(ray: Any, corpus_folder: Path, tmp_path: Path) -> None:
    """It was whole when the corpus was loaded."""
    folder = tmp_path / "corpus"
    shutil.copytree(corpus_folder, folder)
    tokenizer = released_tokenizer("geneformer-v2")

    def damaging(write: Callable[[int], Any], numbers: Sequence[int]) -> Iterator[Any]:
        whole = (folder / "b.h5ad").read_bytes()
        (folder / "b.h5ad").write_bytes(b"nothing")
        try:
            yield from map_on_ray(write, numbers)
        finally:
            (folder / "b.h5ad").write_bytes(whole)

    options: dict[str, Any] = {"shard_size": 12, "progress": False}
    with pytest.raises(CorpusError, match=r"b\.h5ad"):
        tokenize_corpus(folder, tokenizer, tmp_path / "shards", **options, map_shards=damaging)
    assert not (tmp_path / "shards").exists()
    assert tokenize_corpus(folder, tokenizer, tmp_path / "shards", **options, map_shards=map_on_ray).n_rows == 72
