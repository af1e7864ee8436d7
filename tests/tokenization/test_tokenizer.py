"""CellTokenizer is a Hugging Face tokenizer whose text is a cell."""

from __future__ import annotations

import copy
import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from tokenization.conftest import N_GENES, SPECIAL, make_tokenizer
from transformers import AutoTokenizer, BatchEncoding, DataCollatorWithPadding

import scfm_hf  # noqa: F401 - registers the tokenizer with AutoTokenizer
from scfm_hf.errors import ExpressionError, GeneIdError, VocabularyError
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_hf.genes import GeneVocabulary


def with_counts(cells: anndata.AnnData, counts: Any, names: list[str] | None = None) -> anndata.AnnData:
    return anndata.AnnData(
        counts, obs=cells.obs.copy(), var=cells.var[[]].copy() if names is None else {"index": names}
    )


def tokens(encoded: BatchEncoding) -> dict[str, list[list[float]]]:
    """Columns as lists, without padding."""
    return {name: [list(row) for row in column] for name, column in encoded.items()}


# ------------------------------------------------------------------------------------------------- saved and loaded


def test_comes_back_whole_from_a_folder(tokenizer: CellTokenizer, cells: anndata.AnnData, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is CellTokenizer
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.vocabulary_digest == tokenizer.vocabulary_digest
    assert loaded.model_input_names == tokenizer.model_input_names
    assert loaded.model_max_length == 300
    assert loaded.statistics.keys() == tokenizer.statistics.keys()
    for name, values in tokenizer.statistics.items():
        assert np.array_equal(loaded.statistics[name], values, equal_nan=True)
    assert tokens(loaded(cells)) == tokens(tokenizer(cells))
    loaded.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert tokens(again(cells)) == tokens(tokenizer(cells))


def test_options_and_identifiers_are_saved(vocabulary: GeneVocabulary, cells: anndata.AnnData, tmp_path: Path) -> None:
    known, old = vocabulary.gene_tokens[0], "AN-OLD-NAME"
    made = make_tokenizer(
        vocabulary,
        "bin",
        n_bins=7,
        include_zero_genes=True,
        identifiers={old: known},
        case_sensitive=False,
        use_gene_tables=False,
    )
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.identifiers == {old: known}
    encoded = loaded(cells)
    assert max(map(max, encoded["values"])) == 6
    assert {len(row) for row in encoded["input_ids"]} == {300}
    renamed = with_counts(cells, cells.X)
    renamed.var_names = [old.lower() if name == known else name.lower() for name in cells.var_names]
    assert tokens(loaded(renamed)) == tokens(encoded)


def test_a_folder_without_its_statistics_says_what_is_missing(
    rank_tokenizer: CellTokenizer, cells: anndata.AnnData, tmp_path: Path
) -> None:
    rank_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "gene_statistics.safetensors").unlink()
    with pytest.raises(ValueError, match="median"):
        AutoTokenizer.from_pretrained(tmp_path)(cells)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_usual_mode(rank_tokenizer: CellTokenizer, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        rank_tokenizer.save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_files_are_plain_formats(rank_tokenizer: CellTokenizer, tmp_path: Path) -> None:
    rank_tokenizer.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "CellTokenizer"
    assert written["cell_options"]["vocabulary_digest"] == rank_tokenizer.vocabulary_digest
    assert str(tmp_path.parent) not in (tmp_path / "tokenizer_config.json").read_text()


def test_a_loaded_tokenizer_forgets_where_it_came_from(rank_tokenizer: CellTokenizer, tmp_path: Path) -> None:
    rank_tokenizer.save_pretrained(tmp_path / "here")
    AutoTokenizer.from_pretrained(tmp_path / "here").save_pretrained(tmp_path / "there")
    assert str(tmp_path) not in (tmp_path / "there" / "tokenizer_config.json").read_text()


def test_copies_and_pickles(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    """Data loaders send tokenizers to their workers."""
    expected = tokens(tokenizer(cells))
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert tokens(other(cells)) == expected


# ------------------------------------------------------------------------------------------------ genes as words


def test_the_tokenizers_library_reads_its_file(rank_tokenizer: CellTokenizer, tmp_path: Path) -> None:
    rank_tokenizer.save_pretrained(tmp_path)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.get_vocab_size() == N_GENES + len(SPECIAL)
    genes = rank_tokenizer.vocabulary.gene_tokens[:3]
    assert plain.encode(" ".join(genes)).tokens == ["<cls>", *genes, "<eos>"]


def test_a_sentence_of_genes_is_a_cell(rank_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    ids = rank_tokenizer(cells[:1])["input_ids"][0]
    sentence = rank_tokenizer.decode(ids, skip_special_tokens=True)
    assert sentence.split()[0] in rank_tokenizer.vocabulary
    assert rank_tokenizer(sentence)["input_ids"] == ids
    assert rank_tokenizer([sentence, sentence], return_tensors="pt")["input_ids"].tolist() == [ids, ids]


def test_an_unknown_gene_in_a_sentence_raises(tokenizer: CellTokenizer) -> None:
    """With ``<pad>`` for unknown words, an unknown gene would silently become padding."""
    with pytest.raises(Exception, match="UNK"):
        tokenizer("NO-SUCH-GENE")


def test_added_genes_change_the_vocabulary_and_its_digest(
    rank_tokenizer: CellTokenizer, cells: anndata.AnnData, tmp_path: Path
) -> None:
    before, expected = rank_tokenizer.vocabulary_digest, tokens(rank_tokenizer(cells))
    unknown = next(name for name in cells.var_names if name not in rank_tokenizer.vocabulary)
    assert rank_tokenizer.add_tokens([unknown]) == 1
    assert rank_tokenizer.vocabulary_digest != before
    assert rank_tokenizer.vocabulary.token_to_id[unknown] == len(rank_tokenizer) - 1
    assert len(rank_tokenizer.statistics["median"]) == len(rank_tokenizer)
    # Without a median, it cannot be ranked yet.
    assert tokens(rank_tokenizer(cells)) == expected
    rank_tokenizer.statistics["median"][-1] = 1.0
    assert tokens(rank_tokenizer(cells)) != expected
    rank_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.vocabulary_digest == rank_tokenizer.vocabulary_digest
    assert tokens(loaded(cells)) == tokens(rank_tokenizer(cells))
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["cell_options"]["vocabulary_digest"] == loaded.vocabulary_digest


# ------------------------------------------------------------------------------------------------ padding


def test_pads_to_the_longest_cell_or_to_a_length(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    ragged = tokenizer(cells)
    lengths = [len(row) for row in ragged["input_ids"]]
    assert len(set(lengths)) > 5
    padded = tokenizer(cells, padding=True, return_tensors="pt")
    assert isinstance(padded, BatchEncoding)
    assert list(padded) == tokenizer.model_input_names
    assert {tuple(column.shape) for column in padded.values()} == {(24, max(lengths))}
    assert padded["attention_mask"].sum(1).tolist() == lengths
    assert (padded["input_ids"][padded["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert tokenizer(cells, padding="max_length", return_tensors="np")["input_ids"].shape == (24, 300)
    assert tokenizer(cells, padding="max_length", max_length=40, return_tensors="np")["input_ids"].shape == (24, 40)
    as_lists = tokenizer(cells, padding=True)
    assert as_lists["input_ids"] == padded["input_ids"].tolist()


def test_types_are_those_that_models_take(bin_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    given = bin_tokenizer(cells, padding=True, return_tensors="pt")
    assert {name: column.dtype for name, column in given.items()} == {
        "input_ids": torch.int64,
        "values": torch.float32,
        "attention_mask": torch.int64,
    }


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 64])
def test_the_stock_collator_pads_values_too(
    bin_tokenizer: CellTokenizer, cells: anndata.AnnData, side: str, multiple: int | None
) -> None:
    bin_tokenizer.padding_side = side
    ragged = bin_tokenizer(cells)
    features = [{name: column[row] for name, column in ragged.items()} for row in range(5)]
    batch = DataCollatorWithPadding(bin_tokenizer, pad_to_multiple_of=multiple)(features)
    longest = max(len(feature["input_ids"]) for feature in features)
    width = longest if multiple is None else -(-longest // multiple) * multiple
    for name, column in batch.items():
        assert column.shape == (5, width), name
        assert column.dtype == (torch.float32 if name == "values" else torch.int64)
    for row, feature in enumerate(features):
        real = batch["attention_mask"][row].bool()
        assert real.flip(0)[0] == (side == "left") or real.all()
        for name in ("input_ids", "values"):
            assert batch[name][row][real].tolist() == feature[name]
        assert (batch["values"][row][~real] == -2).all()


def test_cells_are_cut_to_the_context(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    whole, cut = tokenizer(cells), tokenizer(cells, max_length=20)
    assert {len(row) for row in cut["input_ids"]} == {20}
    if "values" not in whole:
        assert [row[:20] for row in whole["input_ids"]] == cut["input_ids"]


# ------------------------------------------------------------------------------------------------ a cell on its own


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cell_is_encoded_the_same_however_the_file_is_written(
    tokenizer: CellTokenizer, cells: anndata.AnnData, tmp_path: Path, data: st.DataObject
) -> None:
    expected = tokens(tokenizer(cells))
    rows = data.draw(st.permutations(range(cells.n_obs)).map(lambda order: order[:9]), label="cells")
    columns = data.draw(st.permutations(range(cells.n_vars)), label="genes")
    kind = data.draw(st.sampled_from(["csr", "csc", "dense"]), label="format")
    dtype = data.draw(st.sampled_from(["int16", "int64", "uint32", "float32", "float64"]), label="dtype")
    layer = data.draw(st.sampled_from([None, "counts"]), label="layer")
    backed = data.draw(st.booleans(), label="backed")
    block_size = data.draw(st.sampled_from([1, 2, 5, 2048]), label="block size")

    written = cells[list(rows), list(columns)].copy()
    counts = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[kind](
        written.X.astype(dtype)
    )
    if layer:
        written.layers[layer], written.X = counts, sparse.csr_matrix(written.shape, dtype=np.float32)
    else:
        written.X = counts
    if backed:
        path = tmp_path / "cells.h5ad"
        written.write_h5ad(path)
        written = anndata.read_h5ad(path, backed="r")
    try:
        got = tokens(tokenizer(written, layer=layer, block_size=block_size))
    finally:
        if backed:
            written.file.close()
    assert got == {name: [column[row] for row in rows] for name, column in expected.items()}


def test_the_cells_are_never_changed(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    given = cells.copy()
    given.X = sparse.csr_matrix(given.X)
    before = given.copy()
    tokenizer(given, padding=True, return_tensors="pt")
    assert (given.X != before.X).nnz == 0
    assert given.X.dtype == before.X.dtype
    assert given.obs.equals(before.obs)
    assert given.var.equals(before.var)
    assert not given.uns


# ------------------------------------------------------------------------------------------------ options


def test_unknown_options_are_refused(
    tokenizer: CellTokenizer, vocabulary: GeneVocabulary, cells: anndata.AnnData
) -> None:
    with pytest.raises(ValueError, match="no option 'n_bin'"):
        make_tokenizer(vocabulary, "bin", n_bin=5)
    with pytest.raises(ValueError, match="no option 'nonsense'"):
        tokenizer(cells, nonsense=1)
    with pytest.raises(ValueError, match="no tokenizer scheme 'nonsense'"):
        make_tokenizer(vocabulary, "nonsense")


def test_a_call_may_override_an_option(bin_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    usual = tokens(bin_tokenizer(cells))
    assert max(map(max, bin_tokenizer(cells, n_bins=4)["values"])) == 3
    assert tokens(bin_tokenizer(cells)) == usual


def test_statistics_must_fit_the_vocabulary(vocabulary: GeneVocabulary) -> None:
    with pytest.raises(ValueError, match=r"statistics\['median'\] has the shape \(3,\)"):
        make_tokenizer(vocabulary, "rank", statistics={"median": np.ones(3)})
    with pytest.raises(ValueError, match="needs the gene statistics median"):
        make_tokenizer(vocabulary, "rank", statistics={})


def test_further_columns_come_on_request(rank_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    assert list(rank_tokenizer(cells)) == ["input_ids", "attention_mask"]
    given = rank_tokenizer(cells, return_columns=["scores", "counts"], padding=True, return_tensors="np")
    assert given["scores"].shape == given["counts"].shape == given["input_ids"].shape
    inner = given["scores"][0][: given["attention_mask"][0].sum()][1:-1]
    assert (np.diff(inner) <= 0).all()
    assert given["scores"][0][0] == 0
    with pytest.raises(ValueError, match="no column nonsense"):
        rank_tokenizer(cells, return_columns=["nonsense"])


# ------------------------------------------------------------------------------------------------ what a file may hold


def test_cells_without_a_known_gene_are_refused_or_kept(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    counts = sparse.lil_matrix(cells.X)
    counts[3] = 0
    unknown = [column for column, name in enumerate(cells.var_names) if name not in tokenizer.vocabulary]
    counts[5] = 0
    counts[5, unknown[0]] = 4
    given = with_counts(cells, counts.tocsr())
    with pytest.raises(ExpressionError, match=cells.obs_names[3]):
        tokenizer(given)
    with pytest.raises(ExpressionError, match=f"1 cells express no gene.*{cells.obs_names[5]}"):
        tokenizer(given[[0, 5]])
    kept = tokenizer(given, empty_cells="keep")
    special = [tokenizer.cls_token_id] if "values" in kept else []
    assert [kept["input_ids"][row] for row in (3, 5)] == [special, special]
    others = [row for row in range(24) if row not in (3, 5)]
    expected = tokenizer(cells)["input_ids"]
    assert [kept["input_ids"][row] for row in others] == [expected[row] for row in others]
    padded = tokenizer(given, empty_cells="keep", padding=True, return_tensors="pt")
    assert padded["attention_mask"][3].sum() == len(special)


def test_repeated_genes_are_summed_refused_or_kept(rank_tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    gene = rank_tokenizer.vocabulary.gene_tokens[0]
    place = cells.var_names.get_loc(gene)
    first = sparse.lil_matrix(cells.X.shape, dtype=np.float32)
    first[:, place] = 2
    counts = sparse.csr_matrix(cells.X)
    repeated = anndata.AnnData(sparse.hstack([counts, first[:, [place]]]).tocsr())
    repeated.var_names = [*cells.var_names, f"{gene}"]
    repeated.obs_names = cells.obs_names
    together = with_counts(cells, (counts + first.tocsr()).tocsr())
    assert tokens(rank_tokenizer(repeated)) == tokens(rank_tokenizer(together))
    with pytest.raises(GeneIdError, match="1 genes stand in several columns"):
        rank_tokenizer(repeated, duplicates="refuse")
    twice = rank_tokenizer(repeated, duplicates="keep")["input_ids"]
    number = rank_tokenizer.convert_tokens_to_ids(gene)
    assert max(row.count(number) for row in twice) == 2
    assert all(row.count(number) == 1 for row in rank_tokenizer(repeated)["input_ids"])


def test_names_may_stand_in_another_column(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    expected = tokens(tokenizer(cells))
    by_id = cells.copy()
    by_id.var["symbol"] = by_id.var_names
    by_id.var_names = by_id.var["ensembl_id"].to_numpy()
    assert tokens(tokenizer(by_id)) == expected
    assert tokens(tokenizer(by_id, gene_column="symbol")) == expected


def test_exact_names_use_no_table(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    versioned = cells.copy()
    versioned.var_names = [f"{name}.1" for name in cells.var_names]
    with pytest.raises((VocabularyError, GeneIdError)):
        tokenizer(versioned, exact_names=True, gene_column="var_names")


def test_values_that_are_no_counts_are_refused(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    with pytest.raises(ExpressionError):
        tokenizer(with_counts(cells, cells.X.log1p()))
    negative = sparse.csr_matrix(cells.X).copy()
    negative.data[7] = -1
    with pytest.raises(ExpressionError, match="negative"):
        tokenizer(with_counts(cells, negative))


def test_too_few_known_genes_are_refused_with_the_report(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    strange = cells.copy()
    known = [name in tokenizer.vocabulary for name in cells.var_names]
    strange.var_names = [
        f"strange-{i}" if yes and i % 4 else name
        for i, (name, yes) in enumerate(zip(cells.var_names, known, strict=True))
    ]
    with pytest.raises(VocabularyError) as caught:
        tokenizer(strange, gene_column="var_names")
    assert caught.value.report.n_genes == 600
    assert tokenizer(strange, gene_column="var_names", min_overlap=0.0)["input_ids"]


def test_the_encoding_reports_how_genes_were_matched(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    encoded = tokenizer.encode_cells(cells)
    assert len(encoded) == cells.n_obs
    assert encoded.cell_ids.tolist() == cells.obs_names.tolist()
    assert encoded.report.n_matched >= N_GENES
    assert encoded.lengths.tolist() == [len(row) for row in tokenizer(cells)["input_ids"]]
