"""Metadata tokens: what is known of a cell (tissue, assay, condition) stands before its genes as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scfm_hf.training.objectives.cell_batch import UNKNOWN, CellBatch, Encoded, padded
from scfm_hf.training.objectives.masked_gene import MaskedGene
from scfm_hf.training.objectives.objective import Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.tokenization.draws import Draws


@dataclass(frozen=True, kw_only=True)
class MetadataTokens(MaskedGene):
    """Masked genes under metadata tokens, some of which are hidden and predicted too.

    A model that was trained so is asked for genes under a condition (hide genes, show the token), and for the condition
    of a cell (hide the token). :func:`add_metadata_tokens` gives tokenizer and encoder the tokens.

    Parameters
    ----------
    columns
        Annotations of a cell, one token each, in this order; a cell whose class is not known gets the mask there, and
        nothing is predicted.
    metadata_share
        Probability that a metadata token is hidden and predicted.
    share, masked, replaced
        Of the genes, see ``masked_gene``.

    References
    ----------
    Tejada-Lapuerta et al. 2025 (Nicheformer), Methods, "Contextual tokens"; Keskar et al. 2019 (CTRL).
    """

    heads_of: ClassVar[str | None] = "masked_gene"

    columns: Sequence[str]
    metadata_share: float = 0.15

    @property
    def annotations(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.columns)

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        super().check()
        if isinstance(self.columns, str) or not self.columns or not 0 <= self.metadata_share <= 1:
            raise ValueError(
                f"columns={self.columns!r} must be a list of at least one annotation, "
                f"metadata_share={self.metadata_share} from 0 to 1."
            )

    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Hide genes, and put the metadata before them."""
        encoded, wanted = self.hide(cells, draws)
        shown, predicted = self._metadata(cells, draws)
        made = with_tokens(encoded, shown, cells)
        # Cells that were as long as the tokenizer allows are cut, and so is what is told of them.
        labels = [
            row[: len(ids)]
            for row, ids in zip(_inserted(wanted, predicted, _places(encoded, cells)), made["input_ids"], strict=True)
        ]
        return Prepared(cells.pad(made), {"labels": padded(labels, -100, np.int64)})

    def _metadata(self, cells: CellBatch, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that are shown, and labels, int64, (n_cells, n_columns) each."""
        ids = [token_ids(cells.tokenizer, column, cells.classes[column]) for column in self.columns]
        codes = np.stack([cells.codes(column) for column in self.columns], 1)
        known = codes != UNKNOWN
        tokens = np.stack([of_column[code] for of_column, code in zip(ids, codes.T, strict=True)], 1)
        drawn = np.stack(
            [
                draws.cell(f"{cell_id}/metadata").uniform(len(self.columns)) < self.metadata_share
                for cell_id in cells.ids
            ]
        )
        mask_id = cells.tokenizer.mask_token_id
        return np.where(known & ~drawn, tokens, mask_id), np.where(known & drawn, tokens, -100)


def metadata_token(column: str, name: str) -> str:
    """Token of a class of an annotation."""
    return f"<{column}={name}>"


def token_ids(tokenizer: CellTokenizer, column: str, classes: Sequence[str]) -> np.ndarray:
    """Ids of an annotation's tokens, int64, (n_classes,).

    Raises
    ------
    ValueError
        If the vocabulary lacks one.
    """
    known = tokenizer.vocabulary.token_to_id
    tokens = [metadata_token(column, name) for name in classes]
    lacking = [token for token in tokens if token not in known]
    if lacking:
        raise ValueError(
            f"The vocabulary has no token {lacking[0]} ({len(lacking)} of {len(tokens)} are missing). Add them with "
            f"add_metadata_tokens(tokenizer, encoder, columns={{{column!r}: [...]}}) before the objectives are made."
        )
    return np.array([known[token] for token in tokens], np.int64)


def add_metadata_tokens(
    tokenizer: CellTokenizer, encoder: PreTrainedModel, columns: Mapping[str, Sequence[str]]
) -> None:
    """Give a tokenizer tokens for annotations, and the encoder embeddings for them, in place.

    Parameters
    ----------
    tokenizer, encoder
        Of one vocabulary.
    columns
        Annotation -> its classes.
    """
    special = [str(token) for token in tokenizer.all_special_tokens]
    tokens = [metadata_token(column, name) for column, names in columns.items() for name in names]
    new = [token for token in tokens if token not in special]
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    encoder.resize_token_embeddings(max(len(tokenizer), encoder.config.vocab_size))
    encoder.config.vocabulary_digest = tokenizer.vocabulary_digest


def with_tokens(encoded: Encoded, tokens: np.ndarray, cells: CellBatch) -> Encoded:
    """Encoded cells with tokens before their genes, behind a leading ``<cls>``.

    Parameters
    ----------
    encoded
        Not padded.
    tokens
        Ids, int64, (n_cells, n_new).
    cells
        Says what values such tokens have: that of padding.
    """
    columns, places = cells.tokenizer.scheme().columns, _places(encoded, cells)
    limit = min(cells.tokenizer.model_max_length, np.iinfo(np.int32).max)
    made: Encoded = {}
    for name, rows in encoded.items():
        if np.ndim(rows[0]) == 0:
            made[name] = rows
            continue
        if name == "input_ids":
            new = tokens
        else:
            new = np.full(tokens.shape, 1 if name == "attention_mask" else columns[name].pad)
        made[name] = [row[:limit] for row in _inserted(rows, new, places)]
    return made


def _places(encoded: Encoded, cells: CellBatch) -> list[int]:
    """Where the tokens stand in each cell."""
    cls_id = cells.tokenizer.cls_token_id
    return [int(cls_id is not None and len(ids) > 0 and ids[0] == cls_id) for ids in encoded["input_ids"]]


def _inserted(rows: Sequence[np.ndarray], new: np.ndarray, places: Sequence[int]) -> list[np.ndarray]:
    return [
        np.concatenate([row[:place], more, row[place:]]) for row, more, place in zip(rows, new, places, strict=True)
    ]


OBJECTIVE = MetadataTokens
