"""The cells of a batch as objectives see them: raw counts where there are some, inputs of the encoder, annotation."""

from __future__ import annotations

import inspect
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from scfm_hf.models.registry import families
from scfm_hf.tokenization.profiles import ProfileBlock
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization import CellTokenizer

#: Label of a cell whose annotation is not known.
UNKNOWN = -100

#: Columns of the encoder's inputs: one array a cell, or one number a cell.
Encoded = dict[str, list[Any]]


class Profile(NamedTuple):
    """Counts of the genes that a cell expresses.

    Parameters
    ----------
    gene_ids
        Vocabulary ids, int64, ascending.
    counts
        Float64, of the same length.
    """

    gene_ids: NDArray[np.int64]
    counts: NDArray[np.float64]

    @property
    def total(self) -> float:
        """Sum of the counts."""
        return float(self.counts.sum())

    def without(self, gene_ids: NDArray[np.int64]) -> Profile:
        """The profile without some genes."""
        kept = ~np.isin(self.gene_ids, gene_ids)
        return Profile(self.gene_ids[kept], self.counts[kept])

    def with_counts(self, counts: NDArray[Any]) -> Profile:
        """Other counts of the same genes; genes whose count is 0 leave."""
        kept = counts > 0
        return Profile(self.gene_ids[kept], counts[kept].astype(np.float64))

    def counts_of(self, gene_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Counts of any genes, 0 where the cell does not express them."""
        if not len(self.gene_ids):
            return np.zeros(len(gene_ids))
        places = np.minimum(np.searchsorted(self.gene_ids, gene_ids), len(self.gene_ids) - 1)
        return np.where(self.gene_ids[places] == gene_ids, self.counts[places], 0.0)


class CellBatch:
    """Cells of a batch.

    Parameters
    ----------
    cells
        One dictionary a cell: ``gene_ids`` (of the tokenizer's vocabulary) and ``counts``, or the inputs of the encoder
        (``input_ids``, ...), or both; ``cell_id`` where there is one; annotation by its column's name.
    tokenizer
        Encodes counts.
    classes
        Classes of each annotation, by its column's name.
    config, family, own_class
        Configuration and family of the encoder, and the family's own class that the objective trains, if any.
    """

    def __init__(
        self,
        cells: Sequence[Mapping[str, Any]],
        *,
        tokenizer: CellTokenizer,
        classes: Mapping[str, Sequence[str]],
        config: CellConfig,
        family: str,
        own_class: str | None = None,
    ) -> None:
        self.cells, self.tokenizer, self.classes = cells, tokenizer, classes
        self.config, self.family, self.own_class = config, family, own_class

    def __len__(self) -> int:
        return len(self.cells)

    def own_class_takes(self, column: str) -> bool:
        """Whether the family's own class is trained, and its forward pass takes a column."""
        if self.own_class is None:
            return False
        made = families()[self.family].load_class(self.own_class)
        return column in inspect.signature(made.forward).parameters

    @cached_property
    def ids(self) -> list[str | int]:
        """Name of each cell; where it has none, a digest of what it holds."""
        return [cell["cell_id"] if "cell_id" in cell else _digest(cell) for cell in self.cells]

    @cached_property
    def profiles(self) -> list[Profile]:
        """Raw counts of each cell.

        Raises
        ------
        ValueError
            If the cells come without counts.
        """
        lacking = [number for number, cell in enumerate(self.cells) if "counts" not in cell or "gene_ids" not in cell]
        if lacking:
            raise ValueError(
                f"This objective needs raw counts, and {len(lacking)} of {len(self.cells)} cells have none (they have "
                f"{', '.join(self.cells[lacking[0]])}). Give cells with gene_ids and counts, as "
                "load_corpus(files, tokenizer=tokenizer, encode=False) does, and set remove_unused_columns=False."
            )
        made = []
        for cell in self.cells:
            ids, counts = np.asarray(cell["gene_ids"], np.int64), np.asarray(cell["counts"], np.float64)
            order = np.argsort(ids, kind="stable")
            made.append(Profile(ids[order], counts[order]))
        empty = [number for number, profile in enumerate(made) if not profile.total > 0]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(made)} cells have no counts of the vocabulary's genes (first: "
                f"{self.ids[empty[0]]}). Leave them out."
            )
        return made

    @cached_property
    def gene_ids(self) -> NDArray[np.int64]:
        """Ids of all genes of the vocabulary, without special tokens, int64, ascending."""
        return np.setdiff1d(np.arange(len(self.tokenizer)), self.special_ids)

    @cached_property
    def special_ids(self) -> NDArray[np.int64]:
        """Ids of the special tokens, int64, ascending."""
        vocabulary = self.tokenizer.vocabulary
        return np.unique([vocabulary.token_to_id[token] for token in vocabulary.special_tokens.values()]).astype(
            np.int64
        )

    @cached_property
    def whole(self) -> Encoded:
        """Inputs of the encoder for the cells as they are, not padded."""
        if all("input_ids" in cell for cell in self.cells):
            made = {
                name: [cell[name] for cell in self.cells]
                for name in self.tokenizer.scheme().columns
                if name in self.cells[0]
            }
            return {**made, "attention_mask": [np.ones(len(row), np.int64) for row in made["input_ids"]]}
        return self.encode(self.profiles)

    def encode(self, profiles: Sequence[Profile]) -> Encoded:
        """Inputs of the encoder for one profile a cell, not padded."""
        scheme, genes = self.tokenizer.scheme(), self.gene_ids
        if scheme.looks_ahead:
            raise ValueError(
                f"The scheme of this tokenizer ({type(scheme).__name__}) must see a whole file before it encodes a "
                "cell: it cannot encode the cells of a batch. Tokenise before, and take an objective that needs no "
                "counts."
            )
        columns = np.searchsorted(genes, np.concatenate([profile.gene_ids for profile in profiles]))
        offsets = np.concatenate([[0], np.cumsum([len(profile.gene_ids) for profile in profiles])])
        values = np.concatenate([profile.counts for profile in profiles]).astype(np.float32)
        counts = csr_array((values, columns, offsets), shape=(len(profiles), len(genes)))
        totals = np.array([profile.total for profile in profiles])
        names = np.array(list(map(str, (self.ids * (len(profiles) // len(self)))[: len(profiles)])))
        block = ProfileBlock(counts, genes, totals, names, pd.DataFrame(index=names))
        encoded = scheme.encode(block, max_length=min(self.tokenizer.model_max_length, np.iinfo(np.int32).max))
        made: Encoded = {}
        for name in scheme.columns:
            if name in encoded:
                column = encoded[name]
                made[name] = (
                    [column.row(row) for row in range(len(profiles))] if isinstance(column, Ragged) else list(column)
                )
        return {**made, "attention_mask": [np.ones(len(row), np.int64) for row in made["input_ids"]]}

    def pad(self, encoded: Encoded) -> dict[str, Tensor]:
        """Encoded cells as tensors, padded on the right."""
        columns = self.tokenizer.scheme().columns
        made = {}
        for name, rows in encoded.items():
            spec = columns.get(name)
            dtype = spec.dtype if spec else np.int64
            if np.ndim(rows[0]) == 0:
                made[name] = torch.from_numpy(np.asarray(rows).astype(dtype))
            else:
                made[name] = padded(rows, spec.pad if spec else 0, dtype)
        return made

    def codes(self, column: str) -> NDArray[np.int64]:
        """Class number of each cell in an annotation, int64, (n_cells,); -100 where it is not known.

        Raises
        ------
        ValueError
            If the cells have no such annotation, or a class that was not named.
        """
        classes = self.classes[column]
        numbers = {name: number for number, name in enumerate(classes)}
        lacking = [cell for cell in self.cells if column not in cell]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(self.cells)} cells have no {column!r}; they have {', '.join(lacking[0])}. "
                f"Take the column along (columns=[{column!r}]), and set remove_unused_columns=False."
            )
        found = [_code(cell[column], numbers) for cell in self.cells]
        strange = [cell[column] for cell, code in zip(self.cells, found, strict=True) if code is None]
        if strange:
            raise ValueError(
                f"{len(strange)} cells have a {column!r} that was not named (first: {strange[0]!r}); the classes are "
                f"{', '.join(map(str, list(classes)[:10]))}{' ...' if len(classes) > 10 else ''}. Name all of them in "
                "columns=."
            )
        return np.array(found, np.int64)


def padded(rows: Sequence[Any], pad: float, dtype: Any) -> Tensor:
    """Rows of different length as a tensor, padded on the right."""
    made = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return torch.from_numpy(made)


def _code(value: Any, numbers: Mapping[str, int]) -> int | None:
    """Number of a class; None if there is none of that name or number."""
    if value is None or value != value or (isinstance(value, str) and value in ("", "nan")):
        return UNKNOWN
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return UNKNOWN if value < 0 else int(value) if value < len(numbers) else None
    return numbers.get(str(value))


def _digest(cell: Mapping[str, Any]) -> str:
    """Name of a cell that has none: a digest of its counts, or of its inputs."""
    made = blake2b(digest_size=16)
    for name in ("gene_ids", "counts") if "counts" in cell else ("input_ids", "values"):
        if name in cell:
            made.update(np.ascontiguousarray(np.asarray(cell[name], np.float64)).tobytes())
    return made.hexdigest()
