"""A vocabulary keeps its order, knows its digest and travels through JSON unharmed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scfm_hf.errors import VocabularyError
from scfm_hf.genes import GeneVocabulary

if TYPE_CHECKING:
    from pathlib import Path

tokens_of_one_line = st.lists(st.text(min_size=1).filter(lambda text: "\n" not in text), unique=True, max_size=30)


def small(**changes: Any) -> GeneVocabulary:
    values = {
        "tokens": ["<pad>", "<mask>", "CD4", "CD8A"],
        "special_tokens": {"pad": "<pad>", "mask": "<mask>"},
        "id_kind": "symbol",
        "species": ("human",),
    }
    return GeneVocabulary(**values | changes)


def test_the_position_of_a_token_is_its_id() -> None:
    vocabulary = small()
    assert vocabulary.token_to_id == {"<pad>": 0, "<mask>": 1, "CD4": 2, "CD8A": 3}
    assert vocabulary.gene_tokens == ("CD4", "CD8A")
    assert len(vocabulary) == 4
    assert "CD4" in vocabulary
    assert "CD19" not in vocabulary
    ids = vocabulary.ids(["CD8A", "CD19", "cd4", "CD8A"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, -1, -1, 3]
    assert vocabulary.ids([]).dtype == np.int64


@given(tokens=tokens_of_one_line, data=st.data())
def test_the_digest_tells_order_and_content(tokens: list[str], data: st.DataObject) -> None:
    vocabulary = GeneVocabulary(tokens, id_kind="other")
    assert vocabulary.digest == hashlib.sha256("\n".join(tokens).encode()).hexdigest()
    other = data.draw(st.permutations(tokens) | tokens_of_one_line)
    assert (GeneVocabulary(other, id_kind="other").digest == vocabulary.digest) == (list(other) == tokens)


@given(tokens=tokens_of_one_line, data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_json_gives_the_same_vocabulary_back(tokens: list[str], data: st.DataObject, tmp_path: Path) -> None:
    special = {"pad": data.draw(st.sampled_from(tokens))} if tokens else {}
    vocabulary = GeneVocabulary(tokens, special_tokens=special, id_kind="symbol", species=["human", "mouse"])
    read = GeneVocabulary.from_json(vocabulary.to_json(tmp_path / "vocabulary.json"))
    assert read == vocabulary
    assert hash(read) == hash(vocabulary)
    assert list(read) == tokens
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": ["<mask>", "<pad>", "CD4", "CD8A"]},
        {"special_tokens": {"pad": "<pad>"}},
        {"id_kind": "other"},
        {"species": ("mouse",)},
    ],
)
def test_vocabularies_differ_if_anything_does(change: dict[str, Any]) -> None:
    assert small(**change) != small()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": ["CD4", "CD4"], "special_tokens": {}}, r"1 tokens are repeated \(CD4\)"),
        ({"tokens": ["CD4", ""], "special_tokens": {}}, "1 tokens are empty"),
        ({"tokens": ["CD4", "a\nb"], "special_tokens": {}}, "of several lines"),
        ({"tokens": ["CD4", 5], "special_tokens": {}}, "not strings, the first being 5"),
        ({"special_tokens": {"cls": "<cls>"}}, "not among the tokens: {'cls': '<cls>'}"),
        ({"id_kind": "entrez"}, "id_kind must be one of ensembl_id, symbol, other, not 'entrez'"),
    ],
)
def test_what_cannot_be_a_vocabulary_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        small(**change)


def test_a_vocabulary_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = small().to_json(tmp_path / "vocabulary.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["tokens"][2:] = reversed(content["tokens"][2:])
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(VocabularyError, match="was changed or damaged"):
        GeneVocabulary.from_json(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"tokens": []}', b"\x80\x04\x95"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match="is not a gene vocabulary"):
        GeneVocabulary.from_json(path)


def test_a_vocabulary_file_that_lacks_something_is_refused(tmp_path: Path) -> None:
    path = small().to_json(tmp_path / "vocabulary.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["species"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(VocabularyError, match="damaged gene vocabulary: KeyError"):
        GeneVocabulary.from_json(path)
