"""What names are is recognised from the names alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm_hf.genes import gene_table, is_ensembl_id, recognise_id_kind, recognise_species, strip_version

if TYPE_CHECKING:
    import anndata

ensembl_ids = st.builds(
    lambda prefix, number, par: f"{prefix}{number:011d}{par}",
    st.sampled_from(["ENSG", "ENSMUSG", "ENSRNOG", "ENST"]),
    st.integers(0, 10**11 - 1),
    st.sampled_from(["", "_PAR_Y"]),
)


@given(ensembl_id=ensembl_ids, version=st.integers(0, 99))
def test_a_version_is_taken_off_and_par_y_kept(ensembl_id: str, version: int) -> None:
    bare, par, _ = ensembl_id.partition("_PAR_Y")
    versioned = f"{bare}.{version}{par}"
    assert strip_version(versioned) == ensembl_id
    assert strip_version(ensembl_id) == ensembl_id
    assert is_ensembl_id(versioned)
    assert is_ensembl_id(ensembl_id)


@given(name=st.text())
def test_stripping_twice_is_stripping_once(name: str) -> None:
    assert strip_version(strip_version(name)) == strip_version(name)


@pytest.mark.parametrize("name", ["AC012345.1", "RP11-34P13.7", "bP-2171C21.3", "HLA-A", "ENS.5", "", "UQCR11.1"])
def test_other_names_keep_their_dots(name: str) -> None:
    assert strip_version(name) == name
    assert not is_ensembl_id(name)


def test_real_files_are_recognised(
    human_pbmc: anndata.AnnData, human_lines: anndata.AnnData, mouse_oligodendrocytes: anndata.AnnData
) -> None:
    recognised = [
        (recognise_id_kind(list(names)), recognise_species(list(names)))
        for names in (
            human_pbmc.var_names,
            human_pbmc.var["ensembl_id"],
            human_lines.var_names,
            human_lines.var["gene_symbol"],
            mouse_oligodendrocytes.var_names,
            mouse_oligodendrocytes.var["ensembl_id"],
        )
    ]
    assert recognised == [
        ("symbol", "human"),
        ("ensembl_id", "human"),
        ("ensembl_id", "human"),
        ("symbol", "human"),
        ("symbol", "mouse"),
        ("ensembl_id", "mouse"),
    ]


@pytest.mark.parametrize("axis", ["obs_names", "row numbers"])
def test_cells_and_numbers_are_no_genes(human_pbmc: anndata.AnnData, axis: str) -> None:
    names = list(human_pbmc.obs_names) if axis == "obs_names" else [str(i) for i in range(200)]
    assert recognise_id_kind(names) == "other"
    assert recognise_species(names) is None


def test_a_panel_of_few_genes_is_enough() -> None:
    assert recognise_species(["Gad2", "Lamp5", "Kcnip2"]) == "mouse"
    assert recognise_species(["GAD2", "LAMP5", "KCNIP2"]) == "human"


def test_another_species_is_neither() -> None:
    rat = [f"ENSRNOG{i:011d}" for i in range(20)]
    assert recognise_id_kind(rat) == "ensembl_id"
    assert recognise_species(rat) is None


def test_half_human_half_mouse_cannot_be_told() -> None:
    human = gene_table("human")["ensembl_id"][:50].tolist()
    mouse = gene_table("mouse")["ensembl_id"][:50].tolist()
    assert recognise_species(human + mouse) is None
    assert recognise_species(human + mouse[:49]) == "human"
    assert recognise_species(["CD4", "CD8A", "Cd4", "Cd8a"]) is None


def test_nothing_is_nothing() -> None:
    assert recognise_id_kind([]) == "other"
    assert recognise_species([]) is None
