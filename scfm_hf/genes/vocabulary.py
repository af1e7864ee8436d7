"""The ordered list of genes and special tokens that a model knows."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from scfm_hf.errors import VocabularyError
from scfm_hf.genes.identifiers import IdKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_FORMAT = "scfm_hf gene vocabulary 1"


class GeneVocabulary:
    """Genes and special tokens in the order of their ids; never changed once made.

    Parameters
    ----------
    tokens
        Every token; its position is its id.
    special_tokens
        Role (``pad``, ``mask``, ``cls``, ``eos``, ``unk``, ...) -> token.
    id_kind
        What the gene tokens are: ``"ensembl_id"``, ``"symbol"`` or ``"other"``.
    species
        Species whose genes it holds, such as ``("human",)``.

    Raises
    ------
    VocabularyError
        If a token is repeated, empty, not a string or of several lines, or a special token is not among the tokens.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        special_tokens: Mapping[str, str] | None = None,
        id_kind: IdKind,
        species: Sequence[str] = (),
    ) -> None:
        self._tokens = tuple(tokens)
        self._special_tokens = dict(special_tokens or {})
        self._species = (species,) if isinstance(species, str) else tuple(species)
        self._id_kind: IdKind = id_kind
        self._token_to_id = {token: i for i, token in enumerate(self._tokens)}
        self._check()

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token, by id."""
        return self._tokens

    @property
    def token_to_id(self) -> dict[str, int]:
        """Token -> id, special tokens included."""
        return self._token_to_id

    @property
    def special_tokens(self) -> dict[str, str]:
        """Role -> special token."""
        return dict(self._special_tokens)

    @property
    def id_kind(self) -> IdKind:
        """What the gene tokens are."""
        return self._id_kind

    @property
    def species(self) -> tuple[str, ...]:
        """Species whose genes it holds."""
        return self._species

    @cached_property
    def gene_tokens(self) -> tuple[str, ...]:
        """The tokens that are genes, in order."""
        special = set(self._special_tokens.values())
        return tuple(token for token in self._tokens if token not in special)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the tokens in order, joined by line feeds: what tells two vocabularies apart."""
        return hashlib.sha256("\n".join(self._tokens).encode("utf-8")).hexdigest()

    def ids(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Ids of names as they are written, (n_names,); -1 where a name is not a token."""
        return np.array([self._token_to_id.get(name, -1) for name in names], dtype=np.int64)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the vocabulary to a JSON file, which appears whole or not at all; return its path."""
        path = Path(path)
        content = {
            "format": _FORMAT,
            "digest": self.digest,
            "id_kind": self.id_kind,
            "species": list(self.species),
            "special_tokens": self.special_tokens,
            "tokens": list(self.tokens),
        }
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> GeneVocabulary:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        VocabularyError
            If the file is not such a file, or its tokens are not those that its digest was taken of.
        """
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise VocabularyError(f"{path} is not a gene vocabulary: {error}. Write it again with to_json.") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise VocabularyError(f"{path} is not a gene vocabulary written by GeneVocabulary.to_json.")
        try:
            vocabulary = cls(
                content["tokens"],
                special_tokens=content["special_tokens"],
                id_kind=content["id_kind"],
                species=content["species"],
            )
            digest = content["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise VocabularyError(f"{path} is a damaged gene vocabulary: {error!r}.") from error
        if vocabulary.digest != digest:
            raise VocabularyError(
                f"{path} was changed or damaged: its tokens have the digest {vocabulary.digest}, it says {digest}."
            )
        return vocabulary

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._token_to_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneVocabulary):
            return NotImplemented
        return (self.tokens, self.special_tokens, self.id_kind, self.species) == (
            (other.tokens, other.special_tokens, other.id_kind, other.species)
        )

    def __hash__(self) -> int:
        return hash(self._tokens)

    def __repr__(self) -> str:
        return (
            f"GeneVocabulary({len(self.gene_tokens):,} genes, {len(self._special_tokens)} special tokens, "
            f"id_kind={self.id_kind!r}, species={self.species!r})"
        )

    def _check(self) -> None:
        if self._id_kind not in get_args(IdKind):
            raise VocabularyError(f"id_kind must be one of {', '.join(get_args(IdKind))}, not {self._id_kind!r}.")
        damaged = [token for token in self._tokens if not isinstance(token, str) or not token or "\n" in token]
        if damaged:
            raise VocabularyError(
                f"{len(damaged)} tokens are empty, of several lines or not strings, the first being {damaged[0]!r}; "
                "every token must be a non-empty string of one line."
            )
        if len(self._token_to_id) < len(self._tokens):
            repeated = [token for token, count in Counter(self._tokens).items() if count > 1]
            raise VocabularyError(
                f"{len(repeated)} tokens are repeated ({', '.join(repeated[:5])}); each may occur once."
            )
        absent = {role: token for role, token in self._special_tokens.items() if token not in self._token_to_id}
        if absent:
            raise VocabularyError(f"Special tokens that are not among the tokens: {absent}; add them to the tokens.")
