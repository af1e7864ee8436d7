"""The errors of scfm_hf: each message says what is wrong, where, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scfm_hf.genes import MappingReport


class ScfmError(Exception):
    """Base class of every error that scfm_hf raises on purpose."""


class ExpressionError(ScfmError, ValueError):
    """The expression values cannot be what the model needs (negative, not finite, not counts, empty cells)."""


class GeneIdError(ScfmError, ValueError):
    """The gene identifiers are of another kind or species than the model's, duplicated, or not genes at all."""


class VocabularyError(ScfmError, ValueError):
    """Too few genes, or too small a share of the counts, are in the model's vocabulary.

    Parameters
    ----------
    message
        What is wrong and what to do.
    report
        The mapping that failed, for a closer look.
    """

    def __init__(self, message: str, report: MappingReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class CompatibilityError(ScfmError, ValueError):
    """Two things that must belong together do not: tokenizer and model, adapter and base, index and model."""


class CheckpointError(ScfmError, ValueError):
    """A checkpoint is damaged, incomplete, unsafe or of another family; nothing was written."""


class CorpusError(ScfmError, ValueError):
    """A file of a corpus is damaged, missing, changed or does not fit the others."""


class ConfigurationError(ScfmError, ValueError):
    """A configuration file has keys or values that it cannot have; nothing was started."""


class TrainingError(ScfmError, RuntimeError):
    """Training cannot go on: a loss, a gradient or a weight is not finite. The last good checkpoint is still there."""


class MissingExtraError(ScfmError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package
        The package that is needed.
    extra
        The extra of scfm_hf that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs {package}, which is not installed. Install it with: pip install 'scfm_hf[{extra}]'"
        )
