"""A file that cannot be used is named, with what to do; it is skipped only on request, and counted."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pytest

from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.shards import tokenize_corpus
from scfm_hf.errors import CorpusError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.released import released_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def truncate(path: Path, cells: anndata.AnnData) -> None:
    cells.write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_file_of_cells(path: Path, cells: anndata.AnnData) -> None:
    path.write_text("cells")


def normalised(path: Path, cells: anndata.AnnData) -> None:
    cells.layers["raw_counts"] = cells.X.copy()
    cells.X = cells.X.log1p()
    cells.write_h5ad(path)


def negative(path: Path, cells: anndata.AnnData) -> None:
    cells.X.data[100] = -1
    cells.write_h5ad(path)


def not_finite(path: Path, cells: anndata.AnnData) -> None:
    cells.X.data[100] = np.inf
    cells.write_h5ad(path)


def empty(path: Path, cells: anndata.AnnData) -> None:
    cells[:0].copy().write_h5ad(path)


def by_columns(path: Path, cells: anndata.AnnData) -> None:
    cells.X = cells.X.tocsc()
    cells.write_h5ad(path)


def without_column(path: Path, cells: anndata.AnnData) -> None:
    del cells.obs["cell_type"]
    cells.write_h5ad(path)


def unlabelled(path: Path, cells: anndata.AnnData) -> None:
    cells.obs.iloc[3, cells.obs.columns.get_loc("cell_type")] = None
    cells.write_h5ad(path)


def too_few_values(path: Path, cells: anndata.AnnData) -> None:
    cells.write_h5ad(path)
    with h5py.File(path, "a") as file:
        values = file["X/data"][:-7]
        del file["X/data"]
        file["X/data"] = values


def repeated(cells: anndata.AnnData, n_cells: int) -> anndata.AnnData:
    with anndata.settings.override(check_uniqueness=False):
        many = cells[np.arange(n_cells) % cells.n_obs].copy()
    many.obs_names = [f"cell{row}" for row in range(n_cells)]
    return many


BAD = {
    truncate: "cannot be read",
    no_file_of_cells: "cannot be read",
    normalised: r"not hold raw counts.*not whole.*layer=.*'raw_counts'",
    negative: r"not hold raw counts.*negative.*row 0",
    not_finite: r"not hold raw counts.*not finite",
    empty: "is empty",
    by_columns: r"CSC.*tocsr",
    without_column: "no column 'cell_type'",
    unlabelled: "1 cells have no 'cell_type'",
    too_few_values: "not written to its end",
}


@pytest.mark.parametrize(("spoil", "message"), BAD.items(), ids=[spoil.__name__ for spoil in BAD])
def test_a_file_that_cannot_be_used_is_named_or_skipped_on_request(
    tmp_path: Path,
    corpus_folder: Path,
    corpus_cells: anndata.AnnData,
    spoil: Callable[[Path, anndata.AnnData], None],
    message: str,
) -> None:
    spoil(tmp_path / "spoilt.h5ad", corpus_cells.copy())
    files = [corpus_folder, tmp_path]
    with pytest.raises(CorpusError, match=rf"(?s)spoilt\.h5ad.*{message}.*on_error="):
        load_corpus(files, labels="cell_type")
    stream = load_corpus(files, labels="cell_type", on_error="skip", columns=["cell"])
    assert [place.rpartition("/")[2] for place in stream.report.skipped] == ["spoilt.h5ad"]
    assert "1 files were skipped" in str(stream.report)
    assert sorted(cell["cell"] for cell in stream) == list(range(72))


def test_bad_files_among_a_hundred_are_named_or_skipped_and_counted(
    tmp_path: Path, corpus_cells: anndata.AnnData
) -> None:
    few = corpus_cells[:6, :300].copy()
    few.write_h5ad(tmp_path / "00.h5ad")
    for number in range(1, 100):
        shutil.copy(tmp_path / "00.h5ad", tmp_path / f"{number:02}.h5ad")
    truncate(tmp_path / "37.h5ad", few)
    empty(tmp_path / "61.h5ad", few)
    vocabulary = GeneVocabulary(few.var_names.tolist(), id_kind="symbol", species=("human",))
    with pytest.raises(CorpusError, match=r"37\.h5ad cannot be read.*on_error="):
        load_corpus(tmp_path, vocabulary=vocabulary)
    stream = load_corpus(tmp_path, vocabulary=vocabulary, on_error="skip", columns=["cell"])
    assert [place[-7:] for place in stream.report.skipped] == ["37.h5ad", "61.h5ad"]
    assert str(stream.report).startswith("588 cells in 98 files.")
    assert "2 files were skipped" in str(stream.report)
    assert np.array_equal(np.bincount([cell["cell"] for cell in stream]), [98] * 6)


def test_files_of_different_species_do_not_mix(
    tmp_path: Path, corpus_folder: Path, mouse_oligodendrocytes: anndata.AnnData
) -> None:
    mouse_oligodendrocytes.write_h5ad(tmp_path / "mouse.h5ad")
    with pytest.raises(CorpusError, match=r"several species: human .*mouse .*mouse\.h5ad"):
        load_corpus([corpus_folder, tmp_path])
    vocabulary = load_corpus(corpus_folder).vocabulary
    with pytest.raises(CorpusError, match=r"mouse\.h5ad.*mouse"):
        load_corpus([corpus_folder, tmp_path], vocabulary=vocabulary)
    stream = load_corpus([corpus_folder, tmp_path], vocabulary=vocabulary, on_error="skip")
    assert len(stream) == 72


def test_a_wrong_value_far_from_those_looked_at_is_found_when_it_is_read(
    tmp_path: Path, corpus_cells: anndata.AnnData
) -> None:
    many = repeated(corpus_cells, 3000)
    many.X.data[many.X.indptr[1500]] = 0.5
    many.write_h5ad(tmp_path / "many.h5ad")
    stream = load_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"many\.h5ad.*0\.5 in row 1500"):
        list(stream)
    with pytest.raises(CorpusError, match=r"many\.h5ad.*0\.5 in row 1500"):
        load_corpus(tmp_path, check="all")


def test_a_damaged_chunk_is_named_when_it_is_read(tmp_path: Path, corpus_cells: anndata.AnnData) -> None:
    many = repeated(corpus_cells, 3000)
    path = tmp_path / "many.h5ad"
    many.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(file["X/data"].id.get_num_chunks() // 2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 10 : chunk.byte_offset + 60] = b"\0" * 50
    stream = load_corpus(tmp_path)
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"many\.h5ad, rows \d+ to \d+, cannot be read"):
        list(stream)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_file_cut_off_after_it_was_opened_is_named(
    tmp_path: Path, corpus_cells: anndata.AnnData, compression: str | None
) -> None:
    path = tmp_path / "many.h5ad"
    repeated(corpus_cells, 3000).write_h5ad(path, compression=compression)
    stream = load_corpus(tmp_path, block_size=64, window_size=512)
    cells = iter(stream)
    next(cells)  # the file is open now
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)
    with pytest.raises(CorpusError, match=r"many\.h5ad, rows \d+ to \d+, cannot be read"):
        list(cells)


@pytest.fixture
def own_corpus(tmp_path: Path, corpus_folder: Path) -> Path:
    """A copy of the corpus that a test may spoil."""
    return shutil.copytree(corpus_folder, tmp_path / "corpus")


OPTIONS: dict[str, Any] = {"block_size": 4, "window_size": 24}


def test_a_run_does_not_go_on_with_a_file_that_was_changed(own_corpus: Path) -> None:
    state = load_corpus(own_corpus, **OPTIONS).state_dict(taken=20)
    changed = anndata.read_h5ad(own_corpus / "a.h5ad")
    changed[::-1].copy().write_h5ad(own_corpus / "a.h5ad")
    with pytest.raises(CorpusError, match=r"1 of 3 files .*a\.h5ad"):
        load_corpus(own_corpus, **OPTIONS).load_state_dict(state)


def test_a_run_does_not_go_on_without_a_file_or_in_another_order(own_corpus: Path) -> None:
    state = load_corpus(own_corpus, **OPTIONS).state_dict(taken=20)
    with pytest.raises(CorpusError, match="seed differ"):
        load_corpus(own_corpus, **OPTIONS, seed=1).load_state_dict(state)
    (own_corpus / "b.h5ad").unlink()
    with pytest.raises(CorpusError, match=r"3 files, this one has 2.*b\.h5ad"):
        load_corpus(own_corpus, **OPTIONS).load_state_dict(state)


def test_a_corpus_that_was_moved_goes_on(own_corpus: Path, tmp_path: Path) -> None:
    state = load_corpus(own_corpus, **OPTIONS).state_dict(taken=20)
    own_corpus.rename(tmp_path / "elsewhere")
    load_corpus(tmp_path / "elsewhere", **OPTIONS).load_state_dict(state)


def test_a_file_that_vanished_while_the_stream_runs_is_named(own_corpus: Path) -> None:
    stream = load_corpus(own_corpus, **OPTIONS)
    (own_corpus / "b.h5ad").unlink()
    with pytest.raises(CorpusError, match=r"b\.h5ad.*no such file"):
        list(stream)


def test_places_without_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        load_corpus(tmp_path / "nothing.h5ad")
    with pytest.raises(CorpusError, match="holds no"):
        load_corpus(tmp_path)
    no_file_of_cells(tmp_path / "a.h5ad", None)
    with pytest.raises(CorpusError, match=r"None of 1 files can be used.*a\.h5ad"):
        load_corpus(tmp_path, on_error="skip")


def test_a_vocabulary_that_knows_too_few_genes_is_refused(corpus_folder: Path) -> None:
    few = GeneVocabulary(["CD3E", "MS4A1"], id_kind="symbol", species=("human",))
    with pytest.raises(CorpusError, match=r"a\.h5ad.*Too few genes.*min_overlap"):
        load_corpus(corpus_folder, vocabulary=few)
    stream = load_corpus(corpus_folder, vocabulary=few, min_overlap=0)
    assert max(len(cell["counts"]) for cell in stream) <= 2


def test_options_that_make_no_sense_are_refused(corpus_folder: Path) -> None:
    with pytest.raises(TypeError, match="surround"):
        load_corpus(corpus_folder, surround=True)
    with pytest.raises(ValueError, match=r"72 cells"):
        load_corpus(corpus_folder, weights=[1.0, 2.0])
    for option, value in {
        "on_error": "rais",
        "check": "everything",
        "batch_size": 0,
        "bucket_batches": -1,
        "max_length": 0,
    }.items():
        with pytest.raises(ValueError, match=f"{option}.*{value}"):
            load_corpus(corpus_folder, **{"batch_size": 4, option: value})
    with pytest.raises(ValueError, match=r"share .* -0.5"):
        load_corpus(corpus_folder).split(share=-0.5)
    with pytest.raises(ValueError, match="a stream cannot wait for"):
        load_corpus(corpus_folder, tokenizer=released_tokenizer("scgpt-spatial-v1"))
    with pytest.raises(CorpusError, match="the list is empty"):
        load_corpus([])


def test_a_column_that_would_hide_what_a_cell_holds_is_refused(tmp_path: Path, corpus_cells: anndata.AnnData) -> None:
    cells = corpus_cells.copy()
    for name in ("counts", "cell_id", "labels", "values", "length"):
        cells.obs[name] = np.arange(72)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for columns, options in (
        (["counts"], {}),
        (["cell_id"], {"cell_ids": True}),
        (["labels"], {"labels": "cell_type"}),
    ):
        with pytest.raises(ValueError, match=f"{columns[0]}.*of their own"):
            load_corpus(tmp_path, columns=columns, **options)
    taken = load_corpus(tmp_path, columns=["cell_id", "labels", "values", "length"])
    assert all(cell["labels"] == cell["values"] == cell["cell_id"] == cell["length"] for cell in taken)
    tokenizer = released_tokenizer("geneformer-v2")
    with pytest.raises(ValueError, match="input_ids"):
        load_corpus(tmp_path, tokenizer=tokenizer, columns=["input_ids"])
    with pytest.raises(ValueError, match="length"):
        tokenize_corpus(tmp_path, tokenizer, tmp_path / "tokens", columns=["length"])
    assert not list(tmp_path.glob("*tokens*"))
