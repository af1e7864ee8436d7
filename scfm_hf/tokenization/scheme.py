"""What a tokenizer scheme is: the one step of tokenisation in which families differ.

A scheme turns the counts of a block of cells over known genes into per-token columns. It is one class in one file:
schemes of this package serve several families, a family may also bring its own in
``models/<family>/tokenization_<family>.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.tokenization.profiles import Duplicates, GeneOrder, ProfileBlock
    from scfm_hf.tokenization.ragged import Ragged

#: Schemes of this package by name: module and class.
_SCHEMES = {
    "rank": ("scfm_hf.tokenization.rank_scheme", "RankScheme"),
    "bin": ("scfm_hf.tokenization.bin_scheme", "BinScheme"),
}


@dataclass(frozen=True)
class Column:
    """A column of a scheme's output.

    Parameters
    ----------
    pad
        What stands at padding.
    dtype
        NumPy type of the padded array.
    per_cell
        The column has one number a cell, not one a token.
    joins_cells
        Cells with the same number in this column depend on each other, such as the cells of a set: no batch parts
        them. Negative numbers join nothing.
    """

    pad: float
    dtype: type[np.generic] = np.int64
    per_cell: bool = False
    joins_cells: bool = False


class Scheme(ABC):
    """Base of the schemes.

    Parameters
    ----------
    vocabulary
        The model's vocabulary.
    statistics
        Numbers a vocabulary entry, by name, each (n_vocabulary,); NaN where there is none.
    **options
        A scheme's own options, keyword-only, each with a default: a tokenizer saves those that differ, a call may
        override any.
    """

    #: What the values must be, see ``scfm_hf.cells.check_expression``.
    expects: Literal["counts", "log", "any"] = "counts"
    #: Statistics without which the scheme cannot work.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Those that a corpus of counts tells: name -> field of ``CorpusStatistics``; with ``{group}`` in the name, of each
    #: of its groups. Counts are then scaled as they were in the corpus.
    from_corpus: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: Whether :meth:`look_ahead` wants to see all cells of a file before any is encoded; the file is then read twice.
    looks_ahead: ClassVar[bool] = False
    #: Least share of a file's genes, and of their counts, that the vocabulary must know unless the caller says another.
    min_overlap: ClassVar[float] = 0.5
    duplicates: Duplicates = "sum"
    gene_order: GeneOrder = "vocabulary"

    def __init__(self, vocabulary: GeneVocabulary, statistics: Mapping[str, NDArray[np.float64]]) -> None:
        missing = [name for name in self.needs if name not in statistics]
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs the gene statistics {', '.join(missing)}, which the tokenizer does not "
                "have."
            )
        self.vocabulary = vocabulary
        self.statistics = statistics

    @property
    def gene_vocabulary(self) -> GeneVocabulary:
        """What the gene names of a file are matched to: the vocabulary, or one with the same ids and other names.

        A scheme over the genes of several species names those of one of them here as its files do.
        """
        return self.vocabulary

    @property
    def taken_for(self) -> str | None:
        """Species that the model is told all cells are of; None if it is told none, or one a cell."""
        return None

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, Column]:
        """Per-token columns that the model takes, in order; the first is padded to find the length of a batch."""

    @property
    def surrounding_tokens(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Special tokens before and after the genes of a cell."""
        return (), ()

    def look_ahead(self, blocks: Iterable[ProfileBlock]) -> None:
        """See all cells of a file, block by block, for what :meth:`encode` must know of the whole, such as its mean."""
        raise NotImplementedError(f"{type(self).__name__} says that it looks ahead, and does not say at what.")

    @abstractmethod
    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Ragged | NDArray[Any]]:
        """Encode a block of cells.

        Parameters
        ----------
        block
            The cells.
        max_length
            Most tokens a cell, special ones included.

        Returns
        -------
        Every column of ``columns``, and any further one that callers may ask for by ``return_columns=``; ``Ragged`` a
        token, arrays of n_cells a cell.
        """

    @classmethod
    def options_of(cls, roles: Collection[str], groups: Collection[str] = ()) -> dict[str, Any]:
        """Options that suit a new vocabulary, by the roles of its special tokens and the groups of its corpus."""
        return {}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the scheme's own options."""
        parameters = inspect.signature(cls).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def scheme_class(name: str) -> type[Scheme]:
    """The scheme of a name: one of this package, or the name of a family that brings its own.

    Only modules of this library are ever imported, whatever a downloaded file says.

    Raises
    ------
    ValueError
        If there is no such scheme.
    """
    if name in _SCHEMES:
        module, attribute = _SCHEMES[name]
        return getattr(importlib.import_module(module), attribute)
    module = f"scfm_hf.models.{name}.tokenization_{name}"
    if name.isidentifier() and _exists(module):
        return importlib.import_module(module).SCHEME
    raise ValueError(
        f"There is no tokenizer scheme {name!r}. There are {', '.join(_SCHEMES)} and those that families bring."
    )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
