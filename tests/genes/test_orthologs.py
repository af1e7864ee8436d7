"""Genes go from one species to the other by orthology; what is not sure is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm_hf.errors import GeneIdError
from scfm_hf.genes import map_orthologs, ortholog_table, recognise_species

if TYPE_CHECKING:
    import anndata


def test_one_to_one_orthologs_by_symbol_and_by_id() -> None:
    mapping, report = map_orthologs(["Cd4", "Trp53", "no gene"], source="mouse", target="human")
    assert mapping == {"Cd4": "CD4", "Trp53": "TP53"}
    assert report.unmapped == ("no gene",)
    assert (report.n_genes, report.n_mapped, report.types) == (3, 2, {"one2one": 2})
    mapping, _ = map_orthologs(["ENSG00000141510.18"], source="human", target="mouse")
    assert mapping == {"ENSG00000141510.18": "ENSMUSG00000059552"}


def test_the_kind_of_the_targets_can_be_chosen() -> None:
    mapping, _ = map_orthologs(["Trp53"], source="mouse", target="human", id_kind="ensembl_id")
    assert mapping == {"Trp53": "ENSG00000141510"}


def test_previous_symbols_are_understood() -> None:
    assert map_orthologs(["SEPT7"], source="human", target="mouse")[0] == {"SEPT7": "Septin7"}


def test_case_is_no_orthology() -> None:
    # CD8B is Cd8b1 in the mouse, and the mouse has no gene of the name Cd8b.
    assert map_orthologs(["CD8B"], source="mouse", target="human")[0] == {}
    mapping, report = map_orthologs(["Cd8b1"], source="mouse", target="human", policy="highest_goc")
    assert mapping == {"Cd8b1": "CD8B"}
    assert report.types == {"one2many": 1}


def test_the_strict_policy_leaves_one_to_many_out() -> None:
    mapping, report = map_orthologs(["Cd8b1"], source="mouse", target="human")
    assert mapping == {}
    assert report.unmapped == ("Cd8b1",)


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_one_to_one_orthologs_lead_back(data: st.DataObject) -> None:
    table = ortholog_table()
    ids = table.loc[table["type"] == "one2one", "human_ensembl_id"]
    names = [ids.iloc[i] for i in data.draw(st.lists(st.integers(0, len(ids) - 1), unique=True, min_size=1))]
    there, report = map_orthologs(names, source="human", target="mouse")
    back, _ = map_orthologs(list(there.values()), source="mouse", target="human")
    assert [back[there[name]] for name in names] == names
    assert report.shared == {}


def test_the_pair_of_the_best_conserved_gene_order_is_taken() -> None:
    table = ortholog_table()
    names = table.loc[table["type"] != "one2one", "human_ensembl_id"].drop_duplicates().tolist()
    mapping, report = map_orthologs(names, source="human", target="mouse", policy="highest_goc")
    score = table["goc"].fillna(-1)
    best = score.groupby(table["human_ensembl_id"]).max()
    score.index = [table["human_ensembl_id"], table["mouse_ensembl_id"]]
    assert len(mapping) > 500
    assert all(score[pair] == best[pair[0]] for pair in mapping.items())
    assert all(len(candidates) > 1 for candidates in report.ambiguous.values())
    assert report.n_mapped + len(report.ambiguous) + len(report.unmapped) == report.n_genes == len(names)
    assert all(mapping[name] == shared for shared, group in report.shared.items() for name in group)


def test_mouse_cells_become_readable_for_a_human_model(mouse_oligodendrocytes: anndata.AnnData) -> None:
    mapping, report = map_orthologs(list(mouse_oligodendrocytes.var_names), source="mouse", target="human")
    assert report.n_mapped > 1600
    assert recognise_species(list(mapping.values())) == "human"
    assert str(report).startswith(f"{report.n_mapped:,} of 2,000 genes have an ortholog")


@pytest.mark.parametrize(("source", "target"), [("human", "human"), ("mouse", "rat"), ("rat", "human")])
def test_other_species_are_refused(source: str, target: str) -> None:
    with pytest.raises(GeneIdError, match="Orthologs go between human and mouse"):
        map_orthologs(["CD4"], source=source, target=target)


def test_another_policy_is_refused() -> None:
    policy: Any = "upper_case"
    with pytest.raises(ValueError, match="policy must be one of one2one, highest_goc, not 'upper_case'"):
        map_orthologs(["Cd4"], source="mouse", target="human", policy=policy)


def test_no_name_gives_an_empty_mapping() -> None:
    mapping, report = map_orthologs([], source="mouse", target="human")
    assert mapping == {}
    assert report.n_genes == 0
