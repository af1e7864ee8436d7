"""Genes with binned values, by scGPT's two paths: in any order of the counts, exact to the original on request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.sparse import csr_array

from scfm_hf.tokenization.bin import bin_values
from scfm_hf.tokenization.binned_tokens import binned_tokens
from scfm_hf.tokenization.draws import CellDraws, SharedDraws
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from pathlib import Path

CLS = 99_999


@pytest.fixture
def counts(human_pbmc: anndata.AnnData) -> csr_array:
    return csr_array(human_pbmc.X)[:12]


def test_zero_shot_tokens_are_the_expressed_genes_after_cls(counts: csr_array) -> None:
    tokens = binned_tokens(counts, np.arange(counts.shape[1]) + 5, cls_id=CLS, cls_value=-2)
    bins = bin_values(Ragged(counts.data, counts.indptr)).bins
    for i in range(len(tokens)):
        assert tokens.input_ids.row(i).tolist() == [CLS, *(counts[[i]].indices + 5)]
        assert tokens.values.row(i).tolist() == [-2, *bins.row(i)]
    assert tokens.values.values.dtype == np.float32


def test_fine_tuning_values_are_bins_of_log_normalised_expression(counts: csr_array) -> None:
    tokens = binned_tokens(counts, np.arange(counts.shape[1]), target_sum=1e4, log1p=True)
    totals = counts.sum(axis=1, dtype=np.float32)
    expected = bin_values(
        Ragged(np.log1p(counts.data / np.repeat(totals / np.float32(1e4), np.diff(counts.indptr))), counts.indptr)
    )
    assert tokens.values.values.tolist() == expected.bins.values.tolist()


def test_values_may_be_the_expression_itself(counts: csr_array) -> None:
    tokens = binned_tokens(counts, np.arange(counts.shape[1]), n_bins=None, target_sum=1e4, log1p=True)
    totals = counts.sum(axis=1, dtype=np.float32)
    np.testing.assert_allclose(
        tokens.values.values, np.log1p(counts.data * 1e4 / np.repeat(totals, np.diff(counts.indptr))), rtol=1e-6
    )


def test_genes_without_a_count_may_be_tokens_too(counts: csr_array) -> None:
    few = csr_array(counts[:, :40])
    tokens = binned_tokens(few, np.arange(40) * 2, cls_id=CLS, include_zero_genes=True)
    only_expressed = binned_tokens(few, np.arange(40) * 2, cls_id=CLS)
    for i, cell in enumerate(few.toarray()):
        assert tokens.input_ids.row(i).tolist() == [CLS, *(np.arange(40) * 2)]
        assert tokens.values.row(i)[1:][cell > 0].tolist() == only_expressed.values.row(i)[1:].tolist()
        assert not tokens.values.row(i)[1:][cell == 0].any()


def test_the_order_within_a_row_and_explicit_zeros_do_not_matter(counts: csr_array) -> None:
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)])
    reverse = csr_array((counts.data[order], counts.indices[order], counts.indptr), shape=counts.shape)
    with_zeros = counts.copy()
    with_zeros.data[::9] = 0
    without = with_zeros.copy()
    without.eliminate_zeros()
    ids = np.arange(counts.shape[1])
    assert binned_tokens(reverse, ids).input_ids == binned_tokens(counts, ids).input_ids
    assert binned_tokens(reverse, ids).values == binned_tokens(counts, ids).values
    assert binned_tokens(with_zeros, ids).values == binned_tokens(without, ids).values
    assert (with_zeros.data == 0).any()


def test_a_long_cell_keeps_cls_and_the_genes_that_the_selection_names(counts: csr_array) -> None:
    ids = np.arange(counts.shape[1])
    whole = binned_tokens(counts, ids, cls_id=CLS)
    options = {"cls_id": CLS, "max_length": 100, "cell_ids": range(counts.shape[0])}
    first = binned_tokens(counts, ids, selection="first", **options)
    highest = binned_tokens(counts, ids, selection="highest", **options)
    random = binned_tokens(counts, ids, selection="random", selection_draws=CellDraws(1), **options)
    for i in range(len(whole)):
        all_genes = whole.input_ids.row(i)
        expression = counts[[i]].data
        assert first.input_ids.row(i).tolist() == all_genes[:100].tolist()
        best = np.sort(np.argsort(-expression, kind="stable")[:99])
        assert highest.input_ids.row(i).tolist() == [CLS, *all_genes[1:][best]]
        genes = random.input_ids.row(i)[1:]
        assert random.input_ids.row(i)[0] == CLS
        assert len(set(genes)) == len(genes) == 99
        value_of = dict(zip(all_genes, whole.values.row(i), strict=True))
        assert random.values.row(i)[1:].tolist() == [value_of[gene] for gene in genes]


def test_a_random_selection_does_not_depend_on_the_other_cells(counts: csr_array) -> None:
    ids = np.arange(counts.shape[1])
    options = {"selection": "random", "selection_draws": CellDraws(1), "max_length": 50}
    together = binned_tokens(counts, ids, cell_ids=list("abcdefghijkl"), **options)
    alone = binned_tokens(counts[[7]], ids, cell_ids=["h"], **options)
    assert alone.input_ids.row(0).tolist() == together.input_ids.row(7).tolist()


def test_a_random_selection_without_draws_is_refused(counts: csr_array) -> None:
    with pytest.raises(ValueError, match=r"Cell 0 has \d+ genes, more than fit"):
        binned_tokens(counts, np.arange(counts.shape[1]), max_length=50, selection="random")


def _zero_shot_goldens(golden_dir: Path) -> list[tuple[Path, dict, str, dict]]:
    found = []
    for path in sorted(golden_dir.glob("scgpt/*/golden.json")):
        golden = json.loads(path.read_text())
        if {"prepend", "truncate"} <= {step["step"] for step in golden["preprocess"]}:
            found += [(path.parent, golden, prefix, case) for prefix, case in golden["cases"].items()]
    return found


def test_shared_draws_give_the_originals_tokens(golden_dir: Path) -> None:
    goldens = _zero_shot_goldens(golden_dir)
    if not goldens:
        pytest.skip("this set of golden numbers has no zero-shot tokens of scGPT")
    for folder, golden, prefix, case in goldens:
        expected = load_file(folder / "expected.safetensors")
        vocabulary = json.loads((folder / golden["checkpoint"] / "vocab.json").read_text())
        adata = anndata.read_h5ad(golden_dir / case["input"])
        names = np.asarray(adata.var_names if case["gene_column"] == "var_names" else adata.var[case["gene_column"]])
        known = np.flatnonzero([name in vocabulary for name in names])
        steps = {step["step"]: step for step in golden["preprocess"]}
        draws = SharedDraws(golden["seeds"]["numpy"], golden["seeds"]["torch"], choice_by="torch")
        tokens = binned_tokens(
            csr_array(csr_array(adata.X)[case["rows"]][:, known]),
            [vocabulary[names[i]] for i in known],
            cls_id=vocabulary[steps["prepend"]["token"]],
            cls_value=steps["prepend"]["value"],
            n_bins=steps["bin"]["n_bins"],
            ties="random",
            max_length=case["max_length"],
            draws=draws,
            selection_draws=draws,
            cell_ids=case["rows"],
        )
        name = f"{prefix}.{{}}" if prefix else "{}"
        pad, pad_value = vocabulary[golden["tokenizer"]["pad_token"]], golden["tokenizer"]["pad_value"]
        assert np.array_equal(tokens.input_ids.to_padded(pad), expected[name.format("input_ids")])
        assert np.array_equal(tokens.values.to_padded(pad_value), expected[name.format("values")])
