"""The engine of conversion: safe readers, renaming rules, and a report in which every tensor is accounted for."""

from scfm_hf.conversion.convert import ConvertedCheckpoint, convert_checkpoint
from scfm_hf.conversion.renaming import Drop, Rename, TensorRecord, apply_rules
from scfm_hf.conversion.report import ConversionReport
from scfm_hf.conversion.source import SourceFolder

__all__ = [
    "ConversionReport",
    "ConvertedCheckpoint",
    "Drop",
    "Rename",
    "SourceFolder",
    "TensorRecord",
    "apply_rules",
    "convert_checkpoint",
]
