"""The column that fits is chosen, and names that cannot be right are refused with the numbers and the way out."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfm_hf.cells import CellMatrix, check_expression, check_identifiers, choose_gene_column
from scfm_hf.errors import GeneIdError, VocabularyError
from scfm_hf.genes import GeneMapper, GeneVocabulary, gene_table


@pytest.fixture(scope="module")
def ids() -> GeneVocabulary:
    """Ensembl ids of all human protein-coding genes."""
    return human_vocabulary("ensembl_id")


@pytest.fixture(scope="module")
def symbols() -> GeneVocabulary:
    """Symbols of all human protein-coding genes."""
    return human_vocabulary("symbol")


def human_vocabulary(id_kind: Any) -> GeneVocabulary:
    genes = gene_table("human")
    coding = genes[genes["biotype"] == "protein_coding"]
    return GeneVocabulary(list(dict.fromkeys(coding[id_kind])), id_kind=id_kind, species=("human",))


def check(adata: anndata.AnnData, vocabulary: GeneVocabulary, gene_column: str = "var_names", **options: Any) -> None:
    min_overlap = options.pop("min_overlap", 0.5)
    species = options.pop("species", None)
    matrix = CellMatrix(adata, gene_column=gene_column)
    counts = check_expression(matrix, empty_cells="keep").gene_totals
    mapping = GeneMapper(vocabulary, **options).map(matrix.gene_names.tolist(), counts_per_gene=counts)
    check_identifiers(matrix, mapping, vocabulary, species=species, min_overlap=min_overlap)


def refusal(error: type[Exception], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as raised:
        check(*args, **options)
    return str(raised.value)


class TestChoosing:
    def test_the_index_is_taken_where_it_fits(self, human_pbmc: Any, human_lines: Any) -> None:
        assert choose_gene_column(human_pbmc, id_kind="symbol", species="human") == "var_names"
        assert choose_gene_column(human_lines, id_kind="ensembl_id", species="human") == "var_names"

    def test_a_column_of_the_wanted_kind_is_taken_else(self, human_pbmc: Any, human_lines: Any) -> None:
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id", species="human") == "ensembl_id"
        assert choose_gene_column(human_lines, id_kind="symbol", species="human") == "gene_symbol"

    def test_the_species_need_not_be_known(self, human_pbmc: Any, mouse_oligodendrocytes: Any) -> None:
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id") == "ensembl_id"
        for species in ("human", ("human", "mouse"), None, "zebrafish"):
            assert choose_gene_column(mouse_oligodendrocytes, id_kind="ensembl_id", species=species) == "ensembl_id"
            assert choose_gene_column(mouse_oligodendrocytes, id_kind="symbol", species=species) == "var_names"

    @pytest.mark.parametrize("name", ["gene_ids", "feature_id", "Ensembl ID", "gene_id", "ensembl_gene_id"])
    def test_columns_have_many_names_and_may_be_categories(self, human_pbmc: Any, name: str) -> None:
        human_pbmc.var = human_pbmc.var.rename(columns={"ensembl_id": name}).astype("category")
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id") == name

    def test_the_fullest_column_is_taken(self, human_pbmc: Any) -> None:
        full = human_pbmc.var["ensembl_id"]
        half = full.where(np.arange(len(full)) % 3 > 0)
        human_pbmc.var = pd.DataFrame({"gene_id": half, "ensembl_id": full, "n": 1.0, "feature_id": half})
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id") == "ensembl_id"

    def test_a_column_that_is_mostly_empty_is_not_taken(self, human_pbmc: Any) -> None:
        human_pbmc.var["ensembl_id"] = human_pbmc.var["ensembl_id"].where(np.arange(human_pbmc.n_vars) % 3 == 0, "")
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id") == "var_names"

    def test_of_two_columns_that_of_the_species_is_taken(self, mouse_oligodendrocytes: Any) -> None:
        mouse = mouse_oligodendrocytes.var["ensembl_id"].to_numpy()
        human = gene_table("human")["ensembl_id"].to_numpy()[: len(mouse)]
        mouse_oligodendrocytes.var = pd.DataFrame(
            {"gene_id": mouse, "feature_id": human}, index=mouse_oligodendrocytes.var_names
        )
        assert choose_gene_column(mouse_oligodendrocytes, id_kind="ensembl_id", species="human") == "feature_id"
        assert choose_gene_column(mouse_oligodendrocytes, id_kind="ensembl_id", species="mouse") == "gene_id"

    def test_the_columns_of_raw_are_looked_at_on_request(self, human_pbmc: Any) -> None:
        human_pbmc.raw = human_pbmc.copy()
        human_pbmc.var = human_pbmc.var[[]]
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id") == "var_names"
        assert choose_gene_column(human_pbmc, id_kind="ensembl_id", use_raw=True) == "ensembl_id"

    def test_names_of_the_models_own_are_the_index(self, human_pbmc: Any) -> None:
        assert choose_gene_column(human_pbmc, id_kind="other") == "var_names"


class TestRightNames:
    def test_they_pass(self, human_pbmc: Any, human_lines: Any, ids: Any, symbols: Any) -> None:
        check(human_pbmc, symbols)
        check(human_pbmc, ids, "ensembl_id")
        check(human_lines, ids)
        check(human_lines, symbols, "gene_symbol")

    def test_symbols_pass_for_ids_where_the_gene_tables_help(self, human_pbmc: Any, ids: Any) -> None:
        check(human_pbmc, ids)


class TestWrongNames:
    def test_symbols_for_ids_name_the_column_that_has_them(self, human_pbmc: Any, ids: Any) -> None:
        human_pbmc.var["note"] = "nothing"
        found = refusal(GeneIdError, human_pbmc, ids, use_tables=False)
        assert "of 13,714 (0.0%), with 0.0% of the counts, match" in found
        assert "Ensembl ids such as ENSG00000" in found
        assert "var_names holds gene symbols (first: AL627309.1" in found
        assert "Pass gene_column='ensembl_id'" in found

    def test_ids_for_symbols_name_any_column_that_has_them(self, human_lines: Any, symbols: Any) -> None:
        human_lines.var = human_lines.var.rename(columns={"gene_symbol": "what they are called"})
        found = refusal(GeneIdError, human_lines, symbols, use_tables=False)
        assert "Pass gene_column='what they are called'" in found

    def test_the_index_is_named_when_a_column_is_wrong(self, human_pbmc: Any, symbols: Any) -> None:
        found = refusal(GeneIdError, human_pbmc, symbols, "ensembl_id", use_tables=False)
        assert "Pass gene_column='var_names'" in found

    def test_without_such_a_column_it_says_so(self, human_pbmc: Any, ids: Any) -> None:
        human_pbmc.var = human_pbmc.var[[]]
        found = refusal(GeneIdError, human_pbmc, ids, use_tables=False)
        assert "No other column of var holds Ensembl ids" in found

    def test_names_that_are_no_genes_are_refused(self, human_pbmc: Any, symbols: Any) -> None:
        human_pbmc.var_names = [f"probe_{i}" for i in range(human_pbmc.n_vars)]
        found = refusal(GeneIdError, human_pbmc, symbols)
        assert "No gene is in the model's vocabulary: 0 of 13,714" in found
        assert "neither Ensembl ids nor gene symbols (first: probe_0, probe_1, probe_2)" in found

    @pytest.mark.parametrize("column", ["var_names", "ensembl_id"])
    def test_another_species_is_refused(self, mouse_oligodendrocytes: Any, ids: Any, symbols: Any, column: str) -> None:
        vocabulary = ids if column == "ensembl_id" else symbols
        found = refusal(GeneIdError, mouse_oligodendrocytes, vocabulary, column)
        assert f"genes of {column} are those of mouse" in found
        assert "the model knows human" in found
        assert "map_orthologs" in found

    def test_another_species_is_refused_even_where_the_names_match_in_another_case(
        self, mouse_oligodendrocytes: Any, symbols: Any
    ) -> None:
        assert "those of mouse" in refusal(GeneIdError, mouse_oligodendrocytes, symbols, case_sensitive=False)

    def test_a_stated_species_is_believed(self, human_pbmc: Any, symbols: Any) -> None:
        assert "those of mouse" in refusal(GeneIdError, human_pbmc, symbols, species="mouse")

    def test_a_transposed_matrix_is_refused(self, human_pbmc: Any, symbols: Any) -> None:
        found = refusal(GeneIdError, human_pbmc.T, symbols)
        assert "transposed: its rows have names of genes (AL627309.1" in found
        assert "adata.T" in found


class TestTooFewKnown:
    def test_too_few_genes_are_refused_with_the_shares_and_the_report(self, human_pbmc: Any) -> None:
        few = GeneVocabulary(list(human_pbmc.var_names[:3000]), id_kind="symbol", species=("human",))
        with pytest.raises(VocabularyError) as raised:
            check(human_pbmc, few, use_tables=False)
        found = str(raised.value)
        assert "3,000 of 13,714 (21.9%), with" in found
        assert "at least 50% of both" in found
        assert "min_overlap=" in found
        assert raised.value.report is not None
        assert raised.value.report.n_matched == 3000

    def test_too_small_a_share_of_the_counts_is_refused(self, human_pbmc: Any) -> None:
        rare = np.argsort(human_pbmc.X.sum(0).A1, kind="stable")[:12_000]
        known = GeneVocabulary(list(human_pbmc.var_names[rare]), id_kind="symbol", species=("human",))
        found = refusal(VocabularyError, human_pbmc, known, use_tables=False)
        assert "12,000 of 13,714 (87.5%)" in found
        assert f"First of the others: {human_pbmc.var_names[human_pbmc.X.sum(0).A1.argmax()]}" in found

    def test_the_share_may_be_lowered(self, human_pbmc: Any) -> None:
        few = GeneVocabulary(list(human_pbmc.var_names[:3000]), id_kind="symbol", species=("human",))
        check(human_pbmc, few, use_tables=False, min_overlap=0.15)

    def test_nothing_is_asked_with_a_share_of_zero(self, mouse_oligodendrocytes: Any, symbols: Any) -> None:
        check(mouse_oligodendrocytes, symbols, min_overlap=0)

    def test_no_gene_in_common_is_a_matter_of_the_vocabulary_when_the_kind_is_right(self, symbols: Any) -> None:
        old = [name for name in gene_table("human")["symbol"] if name not in symbols][:300]
        adata = anndata.AnnData(sparse.csr_matrix(np.ones((2, 300), np.float32)), var=pd.DataFrame(index=old))
        found = refusal(VocabularyError, adata, symbols, use_tables=False)
        assert "No gene is in the model's vocabulary: 0 of 300" in found
