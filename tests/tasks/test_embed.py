"""embed: one vector a cell that depends on that cell alone, in the order of the cells, with its provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from scipy import sparse
from transformers import AutoModel, AutoTokenizer

from scfm_hf import CompatibilityError, ExpressionError, embed

if TYPE_CHECKING:
    from pathlib import Path

#: The tiny vocabulary knows a part of the genes only.
OPTIONS = {"min_overlap": 0.0, "progress": False}


def vectors(adata: anndata.AnnData, model: object, **options: object) -> np.ndarray:
    return embed(adata, model, **OPTIONS, **options).obsm["X_geneformer"]


def test_vector_of_a_cell_is_that_of_the_model_on_the_cell_alone(
    human_pbmc: anndata.AnnData, model_folder: Path
) -> None:
    found = vectors(human_pbmc, model_folder)
    model, tokenizer = AutoModel.from_pretrained(model_folder).eval(), AutoTokenizer.from_pretrained(model_folder)
    for row in range(0, human_pbmc.n_obs, 9):
        batch = tokenizer(human_pbmc[row], return_tensors="pt", padding=True, min_overlap=0.0)
        alone = model(**batch).cell_embedding.detach().numpy()[0]
        np.testing.assert_allclose(found[row], alone, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(human_pbmc: anndata.AnnData, model_folder: Path, batch_size: int) -> None:
    np.testing.assert_allclose(
        vectors(human_pbmc, model_folder, batch_size=batch_size), vectors(human_pbmc, model_folder), atol=1e-6
    )


def test_order_of_cells_is_kept_and_order_of_genes_does_not_matter(
    human_pbmc: anndata.AnnData, model_folder: Path
) -> None:
    generator = np.random.default_rng(0)
    cells, genes = generator.permutation(human_pbmc.n_obs), generator.permutation(human_pbmc.n_vars)
    shuffled = human_pbmc[cells][:, genes].copy()
    np.testing.assert_allclose(vectors(shuffled, model_folder), vectors(human_pbmc, model_folder)[cells], atol=1e-6)


@pytest.mark.parametrize("form", [sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_format_of_the_matrix_does_not_matter(
    human_pbmc: anndata.AnnData, model_folder: Path, form: type[object]
) -> None:
    expected = vectors(human_pbmc, model_folder)
    other = human_pbmc.copy()
    other.X = form(human_pbmc.X.toarray().astype(np.int32))
    np.testing.assert_allclose(vectors(other, model_folder), expected, atol=1e-6)


def test_backed_file_gives_the_same_and_its_result_is_in_memory(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path
) -> None:
    human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    result = embed(backed, model_folder, **OPTIONS)
    assert not result.isbacked
    np.testing.assert_allclose(result.obsm["X_geneformer"], vectors(human_pbmc, model_folder), atol=1e-6)


def test_input_is_changed_only_if_asked(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    before = human_pbmc.copy()
    assert embed(human_pbmc, model_folder, **OPTIONS) is not None
    assert "X_geneformer" not in human_pbmc.obsm
    assert "scfm" not in human_pbmc.uns
    assert (human_pbmc.X != before.X).nnz == 0
    assert embed(human_pbmc, model_folder, inplace=True, **OPTIONS) is None
    assert human_pbmc.obsm["X_geneformer"].shape == (human_pbmc.n_obs, 16)


def test_result_says_where_it_comes_from_and_can_be_written(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path
) -> None:
    result = embed(human_pbmc, model_folder, key_added="X_mine", **OPTIONS)
    record = result.uns["scfm"]["embed"]
    assert record["family"] == "geneformer"
    assert record["model"] == str(model_folder)
    assert record["vocabulary_digest"] == AutoTokenizer.from_pretrained(model_folder).vocabulary_digest
    assert {"torch", "transformers"} <= set(record["versions"])
    result.write_h5ad(tmp_path / "result.h5ad")
    assert "X_mine" in anndata.read_h5ad(tmp_path / "result.h5ad").obsm


def test_cells_without_a_gene_are_refused_or_get_no_number(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    emptied = human_pbmc.copy()
    emptied.X = sparse.csr_matrix(emptied.X.multiply((np.arange(emptied.n_obs) != 3)[:, None]))
    with pytest.raises(ExpressionError, match="empty_cells"):
        vectors(emptied, model_folder)
    found = vectors(emptied, model_folder, empty_cells="keep")
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(vectors(human_pbmc, model_folder), 3, 0), atol=1e-6)


def test_other_layers_and_poolings_can_be_asked_for(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    usual = vectors(human_pbmc, model_folder)
    last = vectors(human_pbmc, model_folder, embedding_layer="last")
    mean = vectors(human_pbmc, model_folder, pooling="mean")
    assert not np.allclose(usual, last)
    assert not np.allclose(usual, mean)
    with pytest.raises(ValueError, match="pooling"):
        vectors(human_pbmc, model_folder, pooling="median")


def test_genes_get_the_mean_of_their_states(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    cells = human_pbmc[:6].copy()
    result = embed(cells, model_folder, genes=True, **OPTIONS)
    found = result.varm["X_geneformer"]
    model, tokenizer = AutoModel.from_pretrained(model_folder).eval(), AutoTokenizer.from_pretrained(model_folder)
    encoded = tokenizer.encode_cells(cells, min_overlap=0.0).columns["input_ids"]
    gene = int(encoded.row(0)[1])
    states = []
    for row in range(cells.n_obs):
        batch = tokenizer(cells[row], return_tensors="pt", padding=True, min_overlap=0.0)
        hidden = model(**batch, output_hidden_states=True).hidden_states[model.config.embedding_layer]
        states += [state.detach().numpy() for state in hidden[batch["input_ids"] == gene]]
    place = np.flatnonzero((cells.var["ensembl_id"] == tokenizer.convert_ids_to_tokens(gene)).to_numpy())[0]
    np.testing.assert_allclose(found[place], np.mean(states, 0), atol=1e-6)
    unknown = ~np.isin(cells.var["ensembl_id"].astype(str), tokenizer.vocabulary.tokens)
    assert np.isnan(found[unknown]).all()


def test_tokenizer_of_another_vocabulary_is_refused(
    human_pbmc: anndata.AnnData, model_folder: Path, tmp_path: Path
) -> None:
    other = AutoTokenizer.from_pretrained(model_folder)
    other.add_tokens(["ENSG00000000000"])
    with pytest.raises(CompatibilityError, match="vocabulary"):
        vectors(human_pbmc, model_folder, tokenizer=other)


def test_unknown_option_is_refused(human_pbmc: anndata.AnnData, model_folder: Path) -> None:
    with pytest.raises(ValueError, match="no option"):
        vectors(human_pbmc, model_folder, bin_number=3)
