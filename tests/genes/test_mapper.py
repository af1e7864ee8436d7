"""Every name gets the token of its gene, or is listed: nothing is guessed, nothing disappears unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm_hf.errors import VocabularyError
from scfm_hf.genes import GeneMapper, GeneVocabulary, MappingReport, gene_table

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = {"pad": "<pad>"}


def vocabulary(*genes: str, id_kind: Any = "symbol", species: tuple[str, ...] = ("human",)) -> GeneVocabulary:
    return GeneVocabulary(["<pad>", *genes], special_tokens=SPECIAL, id_kind=id_kind, species=species)


def ids(*genes: str) -> GeneVocabulary:
    return vocabulary(*genes, id_kind="ensembl_id")


def found(vocabulary: GeneVocabulary, *names: str, **options: Any) -> tuple[list[str | None], MappingReport]:
    """Token of every name and the report; the species is stated because so few names do not tell it."""
    mapping = GeneMapper(vocabulary, **options).map(names, species="human")
    return [None if i < 0 else vocabulary.tokens[i] for i in mapping.indices], mapping.report


CD99_X, CD99_Y = "ENSG00000002586", "ENSG00000292348"
TP53 = "ENSG00000141510"


class TestNamesAsWritten:
    def test_exact_names_match_and_others_are_listed(self) -> None:
        tokens, report = found(vocabulary("CD4", "CD8A"), "CD8A", "nothing", "CD4")
        assert tokens == ["CD8A", None, "CD4"]
        assert (report.n_genes, report.n_matched, report.ways) == (3, 2, {"exact": 2})
        assert report.unmatched == ("nothing",)

    def test_a_special_token_is_no_gene(self) -> None:
        tokens, report = found(vocabulary("CD4"), "<pad>", "CD4")
        assert tokens == [None, "CD4"]
        assert report.unmatched == ("<pad>",)

    def test_without_stripping_and_tables_only_exact_names_match(self) -> None:
        names = (f"{TP53}.18", "TP53", "P53", TP53, TP53.lower())
        tokens, report = found(ids(TP53), *names, strip_versions=False, use_tables=False)
        assert tokens == [None, None, None, TP53, None]
        assert report.ways == {"exact": 1}

    @given(data=st.data(), genes=st.lists(st.text("ABC.1", min_size=1), unique=True, min_size=1))
    def test_permuted_columns_get_permuted_tokens(self, data: st.DataObject, genes: list[str]) -> None:
        names = data.draw(st.lists(st.sampled_from(genes) | st.text("ABC.1")))
        order = data.draw(st.permutations(range(len(names))))
        mapper = GeneMapper(vocabulary(*genes), use_tables=False)
        forward, permuted = mapper.map(names), mapper.map([names[i] for i in order])
        assert permuted.indices.tolist() == forward.indices[list(order)].tolist()
        assert forward.indices.tolist() == mapper.vocabulary.ids(names).tolist()


class TestVersions:
    @given(version=st.integers(0, 99), par=st.booleans())
    def test_versions_are_stripped_and_counted(self, version: int, par: bool) -> None:
        suffix = "_PAR_Y" if par else ""
        tokens, report = found(ids(CD99_X, f"{CD99_X}_PAR_Y"), f"{CD99_X}.{version}{suffix}")
        assert tokens == [CD99_X + suffix]
        assert (report.ways, report.n_versions_stripped) == ({"version": 1}, 1)

    def test_the_y_copy_is_never_the_x_copy(self) -> None:
        tokens, _ = found(ids(CD99_X), f"{CD99_X}.20_PAR_Y", f"{CD99_X}_PAR_Y", CD99_Y)
        assert tokens == [None, None, None]
        tokens, _ = found(vocabulary("CD99"), f"{CD99_X}.20_PAR_Y", f"{CD99_X}_PAR_Y", CD99_Y, CD99_X)
        assert tokens == [None, None, None, "CD99"]

    def test_a_versioned_token_matches_as_it_is(self) -> None:
        tokens, report = found(ids(f"{TP53}.18", TP53), f"{TP53}.18", f"{TP53}.17")
        assert tokens == [f"{TP53}.18", TP53]
        assert report.ways == {"exact": 1, "version": 1}


class TestIdentifiersOfTheModel:
    def test_they_come_after_the_name_itself_and_before_the_tables(self) -> None:
        identifiers = {"TP53": "ENSG00000000003", TP53: "ENSG00000000003", "GONE": "ENSG99999999999"}
        tokens, report = found(ids(TP53, "ENSG00000000003"), TP53, "TP53", "GONE", identifiers=identifiers)
        assert tokens == [TP53, "ENSG00000000003", None]
        assert report.ways == {"exact": 1, "identifiers": 1}

    def test_a_versioned_retired_id_is_found(self) -> None:
        tokens, report = found(ids(TP53), "ENSG00000000001.4", identifiers={"ENSG00000000001": TP53})
        assert tokens == [TP53]
        assert (report.ways, report.n_versions_stripped) == ({"identifiers": 1}, 1)

    def test_case_matters_only_when_asked(self) -> None:
        identifiers = {"C1ORF112": TP53}
        names = ("C1orf112", TP53.lower(), f"{TP53.lower()}.3")
        assert found(ids(TP53), *names, identifiers=identifiers, use_tables=False)[0] == [None, None, None]
        tokens, report = found(ids(TP53), *names, identifiers=identifiers, case_sensitive=False, use_tables=False)
        assert tokens == [TP53, TP53, TP53]
        assert report.ways == {"case": 2, "identifiers": 1}

    def test_tokens_that_differ_in_case_only_are_ambiguous_in_another_case(self) -> None:
        tokens, report = found(vocabulary("Ab", "AB"), "aB", "Ab", case_sensitive=False)
        assert tokens == [None, "Ab"]
        assert report.ambiguous == {"aB": ("Ab", "AB")}

    def test_a_symbol_leads_through_the_identifiers_too(self) -> None:
        """A vocabulary that names mouse genes by their human orthologs knows mouse symbols as well."""
        mapper = GeneMapper(
            vocabulary(TP53, id_kind="ensembl_id", species=("human", "mouse")),
            identifiers={"ENSMUSG00000059552": TP53},
        )
        mapping = mapper.map(["Trp53", "Actb"], species="mouse")
        assert mapping.indices.tolist() == [1, -1]
        assert mapping.report.ways == {"symbol_to_id": 1}

    def test_identifiers_that_contradict_each_other_are_refused(self) -> None:
        identifiers = {"p53": "A", "P53": "B"}
        assert found(vocabulary("A", "B"), "p53", identifiers=identifiers)[0] == ["A"]
        with pytest.raises(VocabularyError, match="'P53' leads to B and, in another case, to A"):
            GeneMapper(vocabulary("A", "B"), identifiers=identifiers, case_sensitive=False)


class TestTables:
    def test_previous_symbols_find_the_present_one(self) -> None:
        tokens, report = found(vocabulary("SEPTIN7"), "SEPT7", "CDC10")
        assert tokens == ["SEPTIN7", "SEPTIN7"]
        assert report.renamed == {"SEPT7": "SEPTIN7", "CDC10": "SEPTIN7"}
        assert report.duplicates == {"SEPTIN7": (0, 1)}

    def test_present_symbols_find_the_previous_one_of_an_old_vocabulary(self) -> None:
        tokens, report = found(vocabulary("SEPT7"), "SEPTIN7", "CDC10", "ENSG00000122545.22")
        assert tokens == ["SEPT7", "SEPT7", "SEPT7"]
        assert report.ways == {"alias": 2, "id_to_symbol": 1}
        assert report.renamed == {"SEPTIN7": "SEPT7", "CDC10": "SEPT7"}

    def test_symbols_find_their_ensembl_id_and_the_reverse(self) -> None:
        tokens, report = found(ids(TP53, "ENSG00000122545"), "TP53", "SEPT7")
        assert tokens == [TP53, "ENSG00000122545"]
        assert report.ways == {"alias": 1, "symbol_to_id": 1}
        assert report.renamed == {"SEPT7": "SEPTIN7"}
        tokens, report = found(vocabulary("TP53"), f"{TP53}.18")
        assert tokens == ["TP53"]
        assert (report.ways, report.n_versions_stripped) == ({"id_to_symbol": 1}, 1)

    def test_an_approved_symbol_is_never_an_alias(self) -> None:
        # TPP1 is a gene of its own and an alias of ACD.
        tokens, report = found(vocabulary("ACD"), "TPP1")
        assert tokens == [None]
        assert report.unmatched == ("TPP1",)

    def test_an_alias_of_several_genes_is_listed_not_guessed(self) -> None:
        tokens, report = found(vocabulary("MARCHF1"), "1-MAR")
        assert tokens == [None]
        assert report.ambiguous == {"1-MAR": ("MARCHF1", "MTARC1")}
        assert report.unmatched == ()

    def test_a_symbol_of_several_genes_is_listed_not_guessed(self) -> None:
        both = ("ENSG00000015479", "ENSG00000280987")
        assert found(ids(*both), "MATR3")[1].ambiguous == {"MATR3": both}
        assert found(vocabulary("MATR3"), *both)[1].ambiguous == dict.fromkeys(both, both)

    def test_a_symbol_of_several_genes_is_its_only_protein_coding_one(self) -> None:
        genes = gene_table("human")
        rows = genes[genes["symbol"] == "CAST"].set_index("ensembl_id")["biotype"]
        assert sorted(rows) == ["lncRNA", "protein_coding"]
        tokens, _ = found(ids(*rows.index), "CAST")
        assert tokens == [rows.index[rows == "protein_coding"][0]]

    def test_a_pseudo_autosomal_symbol_is_the_x_copy(self) -> None:
        assert found(ids(CD99_X, CD99_Y), "CD99")[0] == [CD99_X]

    def test_tables_of_another_species_are_not_used(self) -> None:
        mapper = GeneMapper(ids(TP53))
        assert mapper.map(["TP53"], species="mouse").report.n_matched == 0
        assert mapper.map(["Trp53"], species="mouse").report.n_matched == 0

    def test_a_vocabulary_of_two_species_takes_the_tables_of_the_names(self) -> None:
        mapper = GeneMapper(vocabulary(TP53, "ENSMUSG00000059552", id_kind="ensembl_id", species=("human", "mouse")))
        assert mapper.map(["TP53"], species="human").indices.tolist() == [1]
        assert mapper.map(["Trp53"], species="mouse").indices.tolist() == [2]

    @given(rows=st.lists(st.integers(0, 70_000), min_size=1, max_size=20, unique=True))
    @settings(deadline=None, max_examples=30)
    def test_a_symbol_never_leads_to_a_gene_of_another_name(self, rows: list[int]) -> None:
        genes = gene_table("human").iloc[rows]
        symbol_of = dict(zip(genes["ensembl_id"], genes["symbol"], strict=True))
        tokens, _ = found(ids(*symbol_of), *dict.fromkeys(genes["symbol"]))
        for name, token in zip(dict.fromkeys(genes["symbol"]), tokens, strict=True):
            assert token is None or symbol_of[token] == name


class TestReport:
    def test_shares_of_counts_and_the_most_expressed_unknown_genes(self) -> None:
        mapping = GeneMapper(vocabulary("CD4")).map(["rare", "CD4", "common"], counts_per_gene=np.array([1, 6, 3]))
        assert mapping.report.share_of_counts == pytest.approx(0.6)
        assert mapping.report.share_of_genes == pytest.approx(1 / 3)
        assert mapping.report.unmatched == ("common", "rare")

    def test_counts_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="counts_per_gene has 2 values for 1 genes"):
            GeneMapper(vocabulary("CD4")).map(["CD4"], counts_per_gene=[1, 2])

    def test_no_gene_and_no_count_give_shares_of_zero(self) -> None:
        assert GeneMapper(vocabulary("CD4")).map([]).report.share_of_genes == 0
        assert GeneMapper(vocabulary("CD4")).map(["CD4"], counts_per_gene=[0]).report.share_of_counts == 0

    @given(names=st.lists(st.sampled_from(["CD4", "CD8A", "SEPT7", "1-MAR", "x", f"{TP53}.1"])))
    @settings(deadline=None)
    def test_every_name_is_accounted_for(self, names: list[str]) -> None:
        mapping = GeneMapper(vocabulary("CD4", "SEPTIN7", "MARCHF1", "TP53")).map(names, species="human")
        report = mapping.report
        n_ambiguous = sum(name in report.ambiguous for name in names)
        assert report.n_matched == sum(report.ways.values()) == int((mapping.indices >= 0).sum())
        assert report.n_matched + n_ambiguous + len(report.unmatched) == report.n_genes == len(names)


class TestRealCells:
    def test_blood_cells_in_a_vocabulary_of_ensembl_ids(self, human_pbmc: anndata.AnnData) -> None:
        genes = gene_table("human")
        mapper = GeneMapper(ids(*genes.loc[genes["biotype"] == "protein_coding", "ensembl_id"]))
        counts = np.asarray(human_pbmc.X.sum(axis=0)).ravel()
        mapping = mapper.map(human_pbmc.var_names, counts_per_gene=counts)
        report = mapping.report
        assert (report.id_kind, report.species) == ("symbol", "human")
        assert report.share_of_counts > 0.9
        assert set(report.ways) == {"symbol_to_id", "alias"}
        # The source's own ids were found by other releases; where both know the gene they agree but for rare renamings.
        own = mapper.vocabulary.ids(human_pbmc.var["ensembl_id"])
        both = (own >= 0) & mapping.known
        assert both.sum() > 11_000
        assert (own[both] == mapping.indices[both]).mean() > 0.995

    def test_cell_lines_in_a_vocabulary_of_symbols(self, human_lines: anndata.AnnData) -> None:
        mapper = GeneMapper(vocabulary(*filter(None, dict.fromkeys(human_lines.var["gene_symbol"]))))
        report = mapper.map(human_lines.var_names).report
        assert (report.id_kind, report.species) == ("ensembl_id", "human")
        assert report.ways["id_to_symbol"] > 15_000

    def test_mouse_cells_match_no_human_vocabulary(self, mouse_oligodendrocytes: anndata.AnnData) -> None:
        genes = gene_table("human")
        report = GeneMapper(ids(*genes["ensembl_id"])).map(mouse_oligodendrocytes.var_names).report
        assert (report.species, report.n_matched) == ("mouse", 0)


def test_released_geneformer_v2_identifiers_act_as_documented(shared_dir: Path) -> None:
    folder, cells = shared_dir / "vocabularies" / "geneformer_v2", shared_dir / "data" / "human_pbmc_ifnb_extra.h5ad"
    if not (folder.is_dir() and cells.is_file()):
        pytest.skip("the shared folder lacks the vocabulary or the cells")
    tokens, identifiers = (
        pd.read_csv(folder / name, sep="\t", quoting=3, keep_default_na=False)
        for name in ("vocabulary.tsv.gz", "ensembl_mapping.tsv.gz")
    )
    roles = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
    mapper = GeneMapper(
        GeneVocabulary(tokens["token"].tolist(), special_tokens=roles, id_kind="ensembl_id", species=("human",)),
        identifiers=dict(zip(identifiers["identifier"], identifiers["ensembl_id"], strict=True)),
        case_sensitive=False,
        use_tables=False,
    )
    report = mapper.map(anndata.read_h5ad(cells).var_names).report
    assert (report.n_genes, report.n_matched, len(report.duplicates)) == (9015, 8634, 5)
