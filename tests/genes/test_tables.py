"""The tables that ship are the ones whose sources are recorded, and say what a biologist knows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from scfm_hf.errors import GeneIdError
from scfm_hf.genes import alias_table, gene_table, ortholog_table, table_sources, transcription_factors

ROOT = Path(__file__).parents[2]
TABLES = files("scfm_hf.genes.tables")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", table_sources())
def test_every_table_is_the_one_whose_source_is_recorded(name: str) -> None:
    entry = table_sources()[name]
    assert digest(TABLES.joinpath(entry["file"]).read_bytes()) == entry["sha256"]
    assert all(entry[field] for field in ("source", "release", "licence", "citation", "input", "input_sha256"))


def test_every_shipped_table_has_its_source_and_all_are_small() -> None:
    shipped = [file for file in TABLES.iterdir() if file.name.endswith(".parquet")]
    assert {file.name for file in shipped} == {entry["file"] for entry in table_sources().values()}
    assert sum(len(file.read_bytes()) for file in shipped) < 3_000_000


def test_building_again_gives_the_same_tables(shared_dir: Path, tmp_path: Path) -> None:
    inputs = shared_dir / "data" / "genes"
    if not inputs.is_dir():
        pytest.skip("the shared folder holds no gene tables to build from")
    command = [sys.executable, str(ROOT / "scripts" / "build_gene_tables.py"), str(inputs), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    built = json.loads((tmp_path / "sources.json").read_text(encoding="utf-8"))
    for name, entry in table_sources().items():
        # The bytes of Parquet depend on the version of its writer; the content does not.
        assert {**built[name], "sha256": None} == {**entry, "sha256": None}
        with TABLES.joinpath(entry["file"]).open("rb") as shipped:
            pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / entry["file"]), pd.read_parquet(shipped))


def test_a_folder_without_the_inputs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    output = tmp_path / "tables"
    command = [sys.executable, str(ROOT / "scripts" / "build_gene_tables.py"), str(tmp_path), "--output", str(output)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode != 0
    assert "genes_human_gencode_v48.csv.gz" in run.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("species", "ensembl_id", "symbol", "chrom", "start", "strand"),
    [
        ("human", "ENSG00000141510", "TP53", "chr17", 7661778, "-"),
        ("human", "ENSG00000139618", "BRCA2", "chr13", 32315085, "+"),
        ("mouse", "ENSMUSG00000000001", "Gnai3", "chr3", 108014595, "-"),
    ],
)
def test_genes_are_where_they_are(
    species: str, ensembl_id: str, symbol: str, chrom: str, start: int, strand: str
) -> None:
    gene = gene_table(species).set_index("ensembl_id").loc[ensembl_id]
    assert gene.to_dict() == {
        "symbol": symbol,
        "biotype": "protein_coding",
        "chrom": chrom,
        "start": start,
        "strand": strand,
    }


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_ensembl_ids_are_unique_and_every_gene_has_a_symbol(species: str) -> None:
    genes = gene_table(species)
    assert genes["ensembl_id"].is_unique
    assert not genes.isna().to_numpy().any()
    assert (genes["symbol"] != "").all()


def test_a_table_that_the_caller_changes_stays_as_it_was() -> None:
    table = gene_table("human")
    table.loc[:, "symbol"] = "changed"
    assert "TP53" in set(gene_table("human")["symbol"])


def test_aliases_lead_to_the_approved_symbol() -> None:
    human = alias_table("human")
    assert set(human.loc[human["alias"] == "SEPT7", "approved"]) == {"SEPTIN7"}
    assert list(alias_table("mouse").columns) == ["alias", "approved"]


def test_orthologs_are_pairs_with_their_kind_and_confidence() -> None:
    orthologs = ortholog_table()
    assert set(orthologs["type"]) == {"one2one", "one2many", "many2many"}
    assert set(orthologs["confidence"]) == {0, 1}
    one2one = orthologs[orthologs["type"] == "one2one"]
    assert one2one["human_ensembl_id"].is_unique
    assert one2one["mouse_ensembl_id"].is_unique
    assert orthologs["goc"].dropna().between(0, 100).all()


def test_transcription_factors_are_those_of_lambert() -> None:
    factors = transcription_factors()
    assert len(factors) == len(set(factors)) == 1639
    assert {"GATA1", "TP53", "SOX2"} <= set(factors)


@pytest.mark.parametrize("table", [gene_table, alias_table])
def test_a_species_without_a_table_is_named(table: object) -> None:
    with pytest.raises(GeneIdError, match="no gene table for 'zebrafish'; there are tables for human and mouse"):
        table("zebrafish")  # type: ignore[operator]
