"""Who a gene is: the genes a model knows, the names people use for them, and how the two are matched."""

from scfm_hf.genes.identifiers import IdKind, is_ensembl_id, recognise_id_kind, recognise_species, strip_version
from scfm_hf.genes.mapper import GeneMapper
from scfm_hf.genes.mapping import GeneMapping, MappingReport
from scfm_hf.genes.orthologs import OrthologReport, map_orthologs
from scfm_hf.genes.tables import alias_table, gene_table, ortholog_table, table_sources, transcription_factors
from scfm_hf.genes.vocabulary import GeneVocabulary

__all__ = [
    "GeneMapper",
    "GeneMapping",
    "GeneVocabulary",
    "IdKind",
    "MappingReport",
    "OrthologReport",
    "alias_table",
    "gene_table",
    "is_ensembl_id",
    "map_orthologs",
    "ortholog_table",
    "recognise_id_kind",
    "recognise_species",
    "strip_version",
    "table_sources",
    "transcription_factors",
]
