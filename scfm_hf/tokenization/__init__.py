"""Tokenisation: from cells to the inputs of a model."""

from scfm_hf.tokenization.ragged import Ragged
from scfm_hf.tokenization.tokenizer import CellTokenizer

__all__ = ["CellTokenizer", "Ragged"]
