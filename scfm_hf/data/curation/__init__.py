"""Curation: what is known about every cell of a corpus, as columns beside the files, which are never changed."""

from scfm_hf.data.curation.corpus_curation import curate_corpus
from scfm_hf.data.curation.curation import FLAGS, Curation
from scfm_hf.data.curation.kept_files import write_kept_cells
from scfm_hf.data.curation.leakage import LeakageReport, leakage_report
from scfm_hf.data.curation.quality import QualityLimits
from scfm_hf.data.curation.report import write_report
from scfm_hf.data.curation.selection import add_in_stages, geometric_sketch

__all__ = [
    "FLAGS",
    "Curation",
    "LeakageReport",
    "QualityLimits",
    "add_in_stages",
    "curate_corpus",
    "geometric_sketch",
    "leakage_report",
    "write_kept_cells",
    "write_report",
]
