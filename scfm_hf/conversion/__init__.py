"""The engine of conversion: safe readers, renaming rules, and a report in which every tensor is accounted for."""

from scfm_hf.conversion.building import ConvertedCheckpoint
from scfm_hf.conversion.convert import convert_checkpoint
from scfm_hf.conversion.renaming import Drop, Rename, Split, TensorRecord, apply_rules, strip_prefix
from scfm_hf.conversion.report import ConversionReport
from scfm_hf.conversion.source import SourceFolder

__all__ = [
    "ConversionReport",
    "ConvertedCheckpoint",
    "Drop",
    "Rename",
    "SourceFolder",
    "Split",
    "TensorRecord",
    "apply_rules",
    "convert_checkpoint",
    "strip_prefix",
]
