"""One order of cells whatever reads it, every cell as it is in its file, and a stream that goes on where it stopped."""

from __future__ import annotations

import json
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader

from scfm_hf.data.corpus import load_corpus
from scfm_hf.errors import CorpusError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.released import released_tokenizer
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

    from scfm_hf.data.stream import CellStream

SMALL: dict[str, Any] = {"block_size": 4, "window_size": 24, "batch_size": 5, "columns": ["cell"]}


def seen(stream: CellStream, workers: int = 0) -> list[int]:
    """Cells of an epoch through a DataLoader."""
    batches = DataLoader(stream, batch_size=stream.batch_size, num_workers=workers, collate_fn=list)
    return [cell["cell"] for batch in batches for cell in batch]


def test_every_cell_comes_once_an_epoch_and_epochs_differ(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    first = seen(stream)
    stream.set_epoch(1)
    second = seen(stream)
    assert sorted(first) == sorted(second) == list(range(72))
    assert first != second
    assert len(stream) == 72


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_order_is_the_same_for_any_number_of_workers(corpus_folder: Path, workers: int) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    stream.set_epoch(2)
    assert seen(stream, workers) == seen(stream)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_batches_of_the_one_order(corpus_folder: Path, workers: int) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    ranks = [stream.shard(rank=rank, world_size=2) for rank in (0, 1)]
    shares = [seen(rank, workers) for rank in ranks]
    assert [len(share) for share in shares] == [len(rank) for rank in ranks]
    batches = [[share[start : start + 5] for start in range(0, len(share), 5)] for share in shares]
    together = [batches[number % 2][number // 2] for number in range(15)]
    assert [cell for batch in together for cell in batch] == seen(stream)


def test_accelerate_shares_the_one_order_among_processes(corpus_folder: Path) -> None:
    """As Trainer does on several ranks: each takes its part of every ``batch size x ranks`` cells."""
    stream = load_corpus(corpus_folder, **SMALL | {"batch_size": 6})
    shares = [
        [cell["cell"] for cell in IterableDatasetShard(stream, batch_size=3, num_processes=2, process_index=rank)]
        for rank in (0, 1)
    ]
    together = [shares[number % 2][number // 2 * 3 :][:3] for number in range(24)]
    assert [cell for batch in together for cell in batch] == seen(stream)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 5, 35, 70])
def test_a_stream_goes_on_where_it_stopped(corpus_folder: Path, taken: int, workers: int) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    stream.set_epoch(3)
    whole = seen(stream)
    state = json.loads(json.dumps(stream.state_dict(taken=taken)))
    other = load_corpus(corpus_folder, **SMALL)
    other.load_state_dict(state)
    other.set_epoch(3)
    assert seen(other, workers) == whole[taken:]
    other.set_epoch(4)
    stream.set_epoch(4)
    assert seen(other) == seen(stream)


def test_without_workers_the_stream_knows_its_place(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    whole = seen(stream)
    cells = iter(stream)
    before = [next(cells)["cell"] for _ in range(20)]
    other = load_corpus(corpus_folder, **SMALL)
    other.load_state_dict(stream.state_dict())
    assert before + seen(other) == whole


def test_ranks_agree_on_where_they_are_and_may_change_in_number(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    whole, ranks = seen(stream), [stream.shard(rank=rank, world_size=2) for rank in (0, 1)]
    for rank in ranks:
        cells = iter(rank)
        for _ in range(15):
            next(cells)
    states = [rank.state_dict() for rank in ranks]
    assert states[0] == states[1]
    stream.load_state_dict(states[0])
    assert seen(stream) == whole[30:]


def test_going_on_reads_no_window_before(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it costs the same at any depth."""
    stream = load_corpus(corpus_folder, **SMALL | {"window_size": 8})
    read = []
    original = stream._reader.read
    monkeypatch.setattr(stream._reader, "read", lambda *arguments: read.append(1) or original(*arguments))
    stream.load_state_dict(stream.state_dict(taken=65))
    assert len(seen(stream)) == 7
    assert len(read) <= 2 < stream.n_windows


def test_batches_are_the_same_cells(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    cells = list(stream)
    batches = list(stream.batches(7))
    assert [len(batch["cell"]) for batch in batches] == [7] * 10 + [2]
    together = [
        (batch["gene_ids"].row(i), batch["counts"].row(i)) for batch in batches for i in range(len(batch["cell"]))
    ]
    for cell, (genes, counts) in zip(cells, together, strict=True):
        assert np.array_equal(cell["gene_ids"], genes)
        assert np.array_equal(cell["counts"], counts)


def test_cells_have_the_counts_of_their_file_in_the_order_of_the_vocabulary(
    corpus_folder: Path, corpus_cells: anndata.AnnData
) -> None:
    """The same cell in another file, by other ids, in another order, of another type, is the same."""
    stream = load_corpus(corpus_folder, **SMALL)
    assert stream.vocabulary.id_kind == "ensembl_id"
    ids = corpus_cells.var["ensembl_id"].astype(str).to_numpy()
    known = stream.vocabulary.ids(ids)
    expected = np.zeros((72, len(stream.vocabulary)), np.float32)
    np.add.at(expected.T, known[known >= 0], corpus_cells.X.toarray().T[known >= 0])
    for cell in stream:
        assert cell["counts"].dtype == np.float32
        assert (np.diff(cell["gene_ids"]) > 0).all()
        once = ~corpus_cells.var["ensembl_id"].duplicated(keep=False)
        row = np.zeros(len(stream.vocabulary), np.float32)
        row[cell["gene_ids"]] = cell["counts"]
        only = known[once.to_numpy() & (known >= 0)]
        assert np.array_equal(row[only], expected[cell["cell"]][only])


def test_a_tokenizer_gives_what_it_gives_for_the_file(corpus_folder: Path, corpus_cells: anndata.AnnData) -> None:
    tokenizer = released_tokenizer("geneformer-v1")
    stream = load_corpus(corpus_folder, tokenizer=tokenizer, labels="cell_type", max_length=300, **SMALL)
    encoded = tokenizer(corpus_cells[:30], max_length=300)["input_ids"]
    names = stream.annotation["labels"].names
    assert names == tuple(sorted(set(corpus_cells.obs["cell_type"])))
    for cell in stream:
        if cell["cell"] < 30:
            assert cell["input_ids"].tolist() == encoded[cell["cell"]]
        assert cell["attention_mask"].tolist() == [1] * len(cell["input_ids"])
        assert names[cell["labels"]] == corpus_cells.obs["cell_type"].iloc[cell["cell"]]
    batch = tokenizer.pad([cell for cell, _ in zip(stream, range(3), strict=False)], return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape


def test_obs_columns_come_along_with_names_and_numbers(corpus_folder: Path, corpus_cells: anndata.AnnData) -> None:
    stream = load_corpus(corpus_folder, **SMALL | {"columns": ["cell", "cell_type"]}, cell_ids=True)
    for cell in stream:
        assert cell["cell_type"] == corpus_cells.obs["cell_type"].iloc[cell["cell"]]
        assert cell["cell_id"] == corpus_cells.obs_names[cell["cell"]]


def as_anndata_0_7(group: Any, name: str) -> None:
    """Store a categorical column as anndata before 0.8 did: codes, and categories elsewhere that they point to."""
    codes, categories = group[name]["codes"][:], group[name]["categories"][:]
    del group[name]
    place = f"__categories/{name}"
    if isinstance(group, h5py.Group):
        group[name], group[place] = codes, categories.astype(object)
        group[name].attrs["categories"] = group[place].ref
    else:
        group.create_array(name, data=codes).attrs["categories"] = place
        group.create_array(place, data=categories)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_categories_of_earlier_versions_of_anndata_are_names(
    tmp_path: Path, corpus_cells: anndata.AnnData, suffix: str
) -> None:
    first, second = corpus_cells[:40].copy(), corpus_cells[40:].copy()
    second.obs["donor"] = second.obs["cell_type"]
    second.obs.loc[second.obs_names[0], "donor"] = None
    first.write_h5ad(tmp_path / "a.h5ad")
    place = tmp_path / f"b.{suffix}"
    if suffix == "h5ad":
        second.write_h5ad(place)
        with h5py.File(place, "a") as file:
            as_anndata_0_7(file["obs"], "cell_type")
            as_anndata_0_7(file["obs"], "donor")
    else:
        with warnings.catch_warnings():  # of formats to come
            warnings.simplefilter("ignore")
            second.write_zarr(place)
            store = zarr.open_group(place, mode="a", use_consolidated=False)
            as_anndata_0_7(store["obs"], "cell_type")
            as_anndata_0_7(store["obs"], "donor")
            zarr.consolidate_metadata(place)
    stream = load_corpus(tmp_path, **SMALL | {"columns": ["cell", "cell_type", "donor"]}, labels="cell_type")
    names = stream.annotation["labels"].names
    assert names == tuple(sorted(set(corpus_cells.obs["cell_type"])))
    for cell in stream:
        expected = corpus_cells.obs["cell_type"].iloc[cell["cell"]]
        assert (cell["cell_type"], names[cell["labels"]]) == (expected, expected)
        if cell["cell"] >= 40:
            assert cell["donor"] == (None if cell["cell"] == 40 else expected)


def test_truth_values_of_which_some_are_missing_are_names(tmp_path: Path, corpus_cells: anndata.AnnData) -> None:
    first, second = corpus_cells[:40].copy(), corpus_cells[40:].copy()
    first.obs["healthy"] = np.arange(40) % 2 == 0
    second.obs["healthy"] = pd.array([None, True, False, None] * 8, dtype="boolean")
    first.write_h5ad(tmp_path / "a.h5ad")
    second.write_h5ad(tmp_path / "b.h5ad")
    stream = load_corpus(tmp_path, **SMALL | {"columns": ["cell", "healthy"]})
    expected = ["True", "False"] * 20 + [None, "True", "False", None] * 8
    for cells in (stream, stream.to_datasets()):
        assert {cell["cell"]: cell["healthy"] for cell in cells} == dict(enumerate(expected))


def test_names_of_cells_may_be_categories(tmp_path: Path, corpus_cells: anndata.AnnData) -> None:
    cells = corpus_cells.copy()
    with warnings.catch_warnings():  # anndata would rather have texts, but writes and reads them
        warnings.simplefilter("ignore")
        cells.obs_names = pd.CategoricalIndex(cells.obs_names)  # as set_index makes it of a column of categories
    cells.write_h5ad(tmp_path / "cells.h5ad")
    names = {cell["cell"]: cell["cell_id"] for cell in load_corpus(tmp_path, **SMALL, cell_ids=True)}
    assert names == dict(enumerate(corpus_cells.obs_names))


def test_balance_shows_small_groups_more_often_and_stays_exact(corpus_folder: Path) -> None:
    options = SMALL | {"balance": "cell_type", "temperature": np.inf}
    stream = load_corpus(corpus_folder, **options, weights=np.where(np.arange(72) < 36, 3.0, 1.0))
    cells = seen(stream)
    assert len(cells) == 72
    assert sum(cell < 36 for cell in cells) == pytest.approx(54, abs=2)
    assert seen(stream, 2) == cells
    other = load_corpus(corpus_folder, **SMALL)
    with pytest.raises(CorpusError, match="weights differ"):
        other.load_state_dict(stream.state_dict())


def test_workers_that_are_spawned_get_the_stream_without_its_open_files(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL)
    whole = seen(stream)
    assert seen(pickle.loads(pickle.dumps(stream))) == whole


def test_several_workers_without_a_batch_size_are_refused(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, **SMALL | {"batch_size": None})
    with pytest.raises(ValueError, match="batch_size="):
        list(DataLoader(stream, batch_size=5, num_workers=2, collate_fn=list))
    with pytest.raises(ValueError, match="batch_size="):
        stream.shard(rank=0, world_size=2)


def test_datasets_gets_the_same_cells_typed_and_resumes(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, labels="cell_type", **SMALL)
    converted = stream.to_datasets()
    assert converted.features["gene_ids"].feature.dtype == "int32"
    assert list(converted.features["labels"].names) == list(stream.annotation["labels"].names)
    whole = [cell["cell"] for cell in converted]
    assert whole == seen(stream)
    cells = iter(converted)
    before = [next(cells)["cell"] for _ in range(31)]
    again = stream.to_datasets()
    again.load_state_dict(converted.state_dict())
    assert before + [cell["cell"] for cell in again] == whole


@pytest.mark.parametrize("weighted", [False, True])
def test_a_split_gives_every_cell_to_one_of_two_streams(corpus_folder: Path, weighted: bool) -> None:
    options = {"balance": "cell_type", "temperature": 1.0} if weighted else {}
    stream = load_corpus(corpus_folder, columns=["cell"], block_size=4, window_size=24, seed=5, **options)
    train, held_out = stream.split(share=0.25, seed=1)
    cells = [[str(cell["cell"]) for cell in part] for part in (train, held_out)]
    assert sorted(cells[0] + cells[1]) == sorted(str(cell["cell"]) for cell in stream)
    assert [len(train), len(held_out)] == [len(part) for part in cells]
    assert 0.15 < len(held_out) / len(stream) < 0.35
    with pytest.raises(CorpusError, match="cells differ"):
        train.load_state_dict(stream.state_dict())


def test_whole_files_can_be_held_out(corpus_folder: Path) -> None:
    stream = load_corpus(corpus_folder, columns=["cell"])
    first = stream.files[0]
    train, held_out = stream.split(files=[first.place])
    assert (len(held_out), len(train)) == (first.n_cells, len(stream) - first.n_cells)
    with pytest.raises(CorpusError, match="no file 'other'"):
        stream.split(files=["other"])
    with pytest.raises(CorpusError, match="both parts"):
        stream.split(share=0.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_like_length_are_the_same_for_any_number_of_workers(corpus_folder: Path, workers: int) -> None:
    options = {"columns": ["cell"], "block_size": 4, "window_size": 36, "batch_size": 6, "seed": 5}
    plain, bucketed = (load_corpus(corpus_folder, **options, bucket_batches=batches) for batches in (0, 4))
    loader = DataLoader(bucketed, batch_size=6, num_workers=workers, collate_fn=list)
    batches = list(loader)
    alone = [cell["cell"] for cell in bucketed]
    assert [cell["cell"] for batch in batches for cell in batch] == alone
    assert sorted(alone) == sorted(cell["cell"] for cell in plain)

    def spread(cells: list) -> float:
        lengths = np.array([len(cell["gene_ids"]) for cell in cells]).reshape(-1, 6)
        return float(np.ptp(lengths, axis=1).mean())

    assert spread(list(bucketed)) < 0.6 * spread(list(plain))
    state = bucketed.state_dict(taken=30)
    resumed = load_corpus(corpus_folder, **options, bucket_batches=4)
    resumed.load_state_dict(state)
    assert [cell["cell"] for cell in resumed] == alone[30:]
    with pytest.raises(CorpusError, match="buckets differ"):
        plain.load_state_dict(state)


def test_a_scheme_says_how_much_of_a_file_its_genes_must_be(corpus_folder: Path, corpus_cells: anndata.AnnData) -> None:
    known = corpus_cells.var["ensembl_id"].astype(str)
    some = known[known.str.startswith("ENSG") & ~known.duplicated()][::4].tolist()
    vocabulary = GeneVocabulary(["<pad>", *some], special_tokens={"pad": "<pad>"}, id_kind="ensembl_id")
    of_profiles = CellTokenizer.from_vocabulary(
        vocabulary, scheme="cellprofile", statistics={"deviation": np.ones(len(vocabulary))}
    )
    assert len(load_corpus(corpus_folder, tokenizer=of_profiles)) == 72
    with pytest.raises(CorpusError, match="at least 50% of both must be"):
        load_corpus(corpus_folder, vocabulary=vocabulary)
    with pytest.raises(CorpusError, match="at least 40% of both must be"):
        load_corpus(corpus_folder, tokenizer=of_profiles, min_overlap=0.4)
