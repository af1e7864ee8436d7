"""Curation: what is known about every cell of a corpus, as columns beside the files, which are never changed."""

from scfm_hf.data.curation.leakage import LeakageReport, leakage_report

__all__ = ["LeakageReport", "leakage_report"]
