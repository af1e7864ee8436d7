"""Shards are opened only if all are there and unchanged, here and on a hub; the stock Trainer learns from them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import datasets
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from scfm_hf.data.open_shards import open_shards, push_shards, read_manifest
from scfm_hf.data.shards import tokenize_corpus
from scfm_hf.errors import CorpusError
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from hub_server.server import HubServer

    from scfm_hf.tokenization import CellTokenizer


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` rests for five seconds after each epoch of a shuffled stream."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture(scope="session")
def tokenizer(corpus_cells: anndata.AnnData) -> CellTokenizer:
    return rank_tokenizer(corpus_cells, min_cells=2, max_length=128)


@pytest.fixture(scope="module")
def written(corpus_folder: Path, tokenizer: CellTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenised") / "shards"
    options: dict[str, Any] = {"labels": "cell_type", "columns": ["cell"], "progress": False}
    tokenize_corpus(corpus_folder, tokenizer, folder, shard_size=24, **options)
    return folder


@pytest.fixture
def shards(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(written, tmp_path / "shards")
    return tmp_path / "shards"


def first_shard(folder: Path) -> Path:
    return min(folder.glob("data/*.parquet"))


def test_a_folder_opens_as_a_data_set_and_as_a_stream(written: Path, tokenizer: CellTokenizer) -> None:
    whole, stream = open_shards(written, tokenizer=tokenizer), open_shards(written, streaming=True)
    assert list(whole["cell"]) == [cell["cell"] for cell in stream] == list(range(72))
    assert whole.features == stream.features
    assert whole.features["labels"].names[0] == "B"


def test_its_tokenizer_is_the_one_that_it_was_made_with(written: Path) -> None:
    again = AutoTokenizer.from_pretrained(written / "tokenizer")
    assert len(open_shards(written, tokenizer=again)) == 72


def test_shards_of_another_tokenizer_are_refused(written: Path, corpus_cells: anndata.AnnData) -> None:
    other = rank_tokenizer(corpus_cells[:50], min_cells=2, max_length=128)
    with pytest.raises(CorpusError, match="made with another tokenizer"):
        open_shards(written, tokenizer=other)


def test_a_shard_that_vanished_is_named(shards: Path) -> None:
    first_shard(shards).unlink()
    for check in ("content", "size"):
        with pytest.raises(CorpusError, match=r"1 missing: data/train-00000-of-00003\.parquet"):
            open_shards(shards, check=check)


def test_a_shard_that_was_changed_is_named(shards: Path) -> None:
    content = bytearray(first_shard(shards).read_bytes())
    content[len(content) // 2] ^= 1
    first_shard(shards).write_bytes(content)
    with pytest.raises(CorpusError, match=r"1 changed: data/train-00000-of-00003\.parquet"):
        open_shards(shards, streaming=True)
    first_shard(shards).write_bytes(content[:-1])
    with pytest.raises(CorpusError, match="1 changed"):
        open_shards(shards, check="size")


def test_a_folder_without_a_whole_manifest_is_refused(shards: Path) -> None:
    text = (shards / "manifest.json").read_text()
    (shards / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(CorpusError, match=r"manifest\.json is damaged"):
        open_shards(shards)
    (shards / "manifest.json").write_text(text.replace('"complete": true', '"complete": false'))
    with pytest.raises(CorpusError, match="it is not complete"):
        open_shards(shards)
    (shards / "manifest.json").write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(CorpusError, match="Update scfm_hf"):
        open_shards(shards)
    (shards / "manifest.json").unlink()
    with pytest.raises(CorpusError, match=r"has no manifest\.json"):
        open_shards(shards)


def test_a_place_that_is_nowhere_is_refused(hub: HubServer) -> None:
    with pytest.raises(CorpusError, match=r"has no manifest\.json"):
        open_shards("nowhere")
    with pytest.raises(CorpusError, match="neither a folder here nor a data set on the hub"):
        open_shards("owner/nothing")


@pytest.mark.hub
def test_a_pushed_data_set_opens_from_the_hub(
    written: Path, hub: HubServer, repo_id: str, tokenizer: CellTokenizer
) -> None:
    assert repo_id in push_shards(written, repo_id)
    kept = hub.state.repository(repo_id, kind="dataset").files
    assert {"README.md", "manifest.json", "tokenizer/tokenizer.json"} <= kept.keys()
    assert read_manifest(repo_id) == read_manifest(written)
    here = open_shards(written)
    assert open_shards(repo_id, tokenizer=tokenizer)[:] == here[:]
    assert list(open_shards(repo_id, streaming=True)) == list(here)
    mixed = open_shards(repo_id, streaming=True).shuffle(seed=1, buffer_size=10)
    assert sorted(cell["cell"] for cell in mixed) == list(range(72))


@pytest.mark.hub
def test_a_shard_that_is_missing_or_was_changed_on_the_hub_is_named_and_none_is_fetched(
    written: Path, hub: HubServer, repo_id: str
) -> None:
    push_shards(written, repo_id)
    repository = hub.state.repository(repo_id, kind="dataset")
    names = sorted(name for name in repository.files if name.endswith(".parquet"))
    swapped = {**repository.files, names[0]: repository.files[names[1]]}
    del swapped[names[2]]
    repository.commit(swapped, "by hand")
    hub.log.clear()
    with pytest.raises(CorpusError, match=rf"1 missing: {names[2]}; 1 changed: {names[0]}"):
        open_shards(repo_id, streaming=True)
    assert not [path for _, path in hub.log if "large-files" in path]


@pytest.mark.hub
def test_shards_that_are_not_all_there_are_not_pushed(shards: Path, hub: HubServer, repo_id: str) -> None:
    first_shard(shards).unlink()
    with pytest.raises(CorpusError, match="1 missing"):
        push_shards(shards, repo_id)
    assert ("dataset", repo_id) not in hub.state.repositories


@pytest.mark.parametrize("streaming", [True, pytest.param(False, marks=pytest.mark.full)])
def test_the_stock_trainer_learns_from_shards(
    written: Path, tokenizer: CellTokenizer, tmp_path: Path, streaming: bool
) -> None:
    torch.manual_seed(0)
    cells = open_shards(written, streaming=streaming)
    if streaming:
        cells = cells.shuffle(seed=0, buffer_size=72)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    trainer = Trainer(
        BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size)),
        TrainingArguments(
            str(tmp_path / "run"),
            max_steps=40,
            per_device_train_batch_size=12,
            learning_rate=1e-2,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=cells.select_columns(["input_ids"]),
        data_collator=DataCollatorForLanguageModeling(tokenizer),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.15
