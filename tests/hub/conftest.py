"""Fixtures of the hub's tests."""

from __future__ import annotations

import pytest
from hub.small_models import GENES, make_bert
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertModel, PreTrainedTokenizerFast


@pytest.fixture
def bert() -> BertModel:
    return make_bert()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words that are genes, carrying the digest of its vocabulary as those of the library do."""
    backend = Tokenizer(models.WordLevel({gene: number for number, gene in enumerate(GENES)}, unk_token="<mask>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", mask_token="<mask>", vocabulary_digest="d" * 64
    )
