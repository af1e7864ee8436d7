"""``scfm vocabulary``, ``scfm shards`` and ``scfm push``: from files of cells to a data set on a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from scfm_hf.data.open_shards import open_shards

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Scfm
    from hub_server.server import HubServer


@pytest.mark.hub
def test_a_corpus_becomes_a_tokenizer_and_shards_and_goes_to_a_hub(
    scfm: Scfm, cells: Path, tmp_path: Path, hub: HubServer, repo_id: str
) -> None:
    tokenizer, tokens = tmp_path / "tokenizer", tmp_path / "tokens"
    done = scfm("vocabulary", cells, "-o", tokenizer, "--min-cells", 1, "--max-length", 64, "--exact")
    assert done.exit_code == 0, done.stderr
    assert "statistics: median" in done.stdout
    call = ["shards", cells, "--tokenizer", tokenizer, "-o", tokens, "--labels", "cell_type", "--shard-size", 24]
    done = scfm(*call, "--licence", "cc-by-4.0")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("72 cells, 4,608 tokens, ")
    done = scfm(*call)
    assert done.exit_code == 1
    assert "exists and is not empty" in done.stderr
    assert scfm("push", tokens, repo_id).exit_code == 0
    assert len(open_shards(repo_id, tokenizer=AutoTokenizer.from_pretrained(tokenizer))) == 72


def test_files_that_are_left_out_are_named(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(b"nothing")
    call = ["shards", cells, broken, "--tokenizer", model, "-o", tmp_path / "tokens"]
    done = scfm(*call)
    assert done.exit_code == 1
    assert "broken.h5ad cannot be read" in done.stderr
    done = scfm(*call, "--skip")
    assert done.exit_code == 0, done.stderr
    assert "skipped: " in done.stderr
    assert "72 cells" in done.stdout
