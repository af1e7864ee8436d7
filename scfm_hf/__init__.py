"""Single-cell foundation models as ordinary Hugging Face models.

Importing the package registers every family with the Auto classes of transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from scfm_hf.models.auto import register_all as _register_all

__version__ = "0.1.0"

#: Public names and where they live; imported when first used.
_PLACES = {
    "CellTokenizer": "tokenization",
    "GeneVocabulary": "genes",
    "GeneMapper": "genes",
    "MappingReport": "genes",
    "AutoModelForExpressionPrediction": "models.auto",
    "AutoModelForPerturbation": "models.auto",
    "families": "models.registry",
    "shipped_models": "models.shipped",
    "convert_checkpoint": "conversion",
    "load_corpus": "data.corpus",
    "curate_corpus": "data.curation",
    "leakage_report": "data.curation",
    "tokenizer_from_corpus": "data.corpus_tokenizer",
    "tokenize_corpus": "data.shards",
    "open_shards": "data.open_shards",
    "embed": "tasks.embed",
    "annotate": "tasks.annotate",
    "integrate": "tasks.integrate",
    "CellTrainer": "training.trainer",
    "extend_vocabulary": "training.vocabulary",
    "pretrain": "tasks.pretrain",
    "lora_config": "training.adapters",
    "push": "hub",
    "pull": "hub",
    "ScfmError": "errors",
    "ExpressionError": "errors",
    "GeneIdError": "errors",
    "VocabularyError": "errors",
    "CompatibilityError": "errors",
    "CheckpointError": "errors",
    "CorpusError": "errors",
    "ConfigurationError": "errors",
    "TrainingError": "errors",
    "MissingExtraError": "errors",
}

__all__ = [*_PLACES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'scfm_hf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scfm_hf.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_register_all()
