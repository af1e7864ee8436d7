"""The way of cells through a tokenizer: read in blocks, checked, mapped to the vocabulary, encoded by the scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from transformers import BatchEncoding
from transformers.utils import logging

from scfm_hf.errors import ExpressionError, GeneIdError
from scfm_hf.tokenization.profiles import GeneProjection, ProfileBlock, merges_names
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.genes import MappingReport
    from scfm_hf.tokenization.scheme import Column, Scheme
    from scfm_hf.tokenization.tokenizer import CellTokenizer


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class EncodedCells:
    """Encoded cells, not padded.

    Parameters
    ----------
    columns
        By name: ``Ragged`` a token, arrays of n_cells a cell.
    cell_ids
        Names of the cells, in the order of the file.
    report
        How the genes of the file were matched to the vocabulary.
    """

    columns: Mapping[str, Ragged | NDArray[Any]]
    cell_ids: NDArray[np.str_]
    report: MappingReport

    def __len__(self) -> int:
        return len(self.cell_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each cell, int64, (n_cells,)."""
        first = next(iter(self.columns.values()))
        return first.lengths if isinstance(first, Ragged) else np.full(len(self), first.shape[1])

    def to_batch(
        self, columns: Mapping[str, Column], *, length: int | None = None, return_tensors: str | None = None
    ) -> BatchEncoding:
        """Make a BatchEncoding, padded to a length if one is given.

        Parameters
        ----------
        columns
            The scheme's columns, which say what stands at padding.
        length
            Tokens a cell, None for no padding.
        return_tensors
            ``"pt"``, ``"np"`` or None for lists.
        """
        data: dict[str, Any] = {}
        for name, column in self.columns.items():
            if not isinstance(column, Ragged):
                data[name] = column if return_tensors else column.tolist()
            elif length is None:
                data[name] = column.to_list()
            else:
                spec = columns.get(name)
                padded = column.to_padded(spec.pad if spec else 0, length)
                data[name] = padded.astype(spec.dtype, copy=False) if spec else padded
            if name == "input_ids" and isinstance(column, Ragged):
                ones = Ragged(np.ones(len(column.values), np.int64), column.offsets)
                data["attention_mask"] = ones.to_list() if length is None else ones.to_padded(0, length)
        if length is not None and not return_tensors:
            data = {name: np.asarray(values).tolist() for name, values in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)


def encode_cells(
    tokenizer: CellTokenizer,
    adata: AnnData,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    exact_names: bool = False,
    max_length: int | None = None,
    min_overlap: float | None = None,
    empty_cells: Literal["raise", "keep"] = "raise",
    return_columns: Sequence[str] = (),
    block_size: int = 256,
    **options: Any,
) -> EncodedCells:
    """Encode the cells of an AnnData.

    Parameters
    ----------
    tokenizer
        Vocabulary, statistics and scheme.
    adata
        The cells, in memory or backed; never changed.
    layer, use_raw
        Where the values are, X otherwise.
    gene_column
        Column of var that names the genes, or ``"var_names"``; None takes the one that fits the vocabulary best.
    exact_names
        Match names as the model's authors do: strip no version, use no table of other names.
    max_length
        Most tokens a cell; None for the tokenizer's own limit.
    min_overlap
        Least share of the genes and of the counts that the vocabulary must know; None: what the scheme asks for, one
        half unless its vocabulary holds chosen genes alone.
    empty_cells
        ``"keep"`` leaves cells without a known gene in, with special tokens only.
    return_columns
        Further per-token columns that the scheme offers (``scores``, ``counts``) and the model does not take.
    block_size
        Cells read at a time; so few that their arrays stay in the processor's cache.
    **options
        Options of the scheme.

    Raises
    ------
    ExpressionError, GeneIdError, VocabularyError
        If the input cannot be what the model needs; nothing is returned then.
    ValueError
        If the scheme has no such option or column, or ``max_length`` leaves no place for genes.
    """
    from scfm_hf.cells import CellMatrix, check_expression, check_identifiers, choose_gene_column

    scheme = tokenizer.scheme(**options)
    limit = _limit(tokenizer.model_max_length if max_length is None else max_length, scheme)
    vocabulary = scheme.gene_vocabulary
    if gene_column is None:
        gene_column = choose_gene_column(adata, id_kind=vocabulary.id_kind, species=vocabulary.species, use_raw=use_raw)
    matrix = CellMatrix(adata, layer=layer, use_raw=use_raw, gene_column=gene_column)
    expression = check_expression(matrix, expects=scheme.expects, empty_cells=empty_cells)
    mapper = tokenizer.mapper_of(vocabulary, exact_names=exact_names)
    names = matrix.gene_names.tolist()
    mapping = mapper.map(names, counts_per_gene=expression.gene_totals)
    least = scheme.min_overlap if min_overlap is None else min_overlap
    if least > 0:
        _refuse_unasked_species(mapping.report.species, vocabulary.species, tokenizer.vocabulary.species)
    check_identifiers(matrix, mapping, vocabulary, min_overlap=least)
    # Mouse genes may go by the names of their human orthologs, but not the other way round.
    if scheme.taken_for == "human" and mapping.report.species not in (None, "human"):
        logger.warning_once(
            f"The genes are those of {mapping.report.species}, and the model is told that the cells are human. Name "
            f'their species with species="{mapping.report.species}".'
        )
    duplicates = scheme.duplicates
    if duplicates == "sum_if_merged":
        duplicates = "sum" if merges_names(names, vocabulary, tokenizer.identifiers) else "keep"
    project = GeneProjection(mapping.indices, duplicates=duplicates, order=scheme.gene_order)

    def profiles() -> Iterator[ProfileBlock]:
        for block in matrix.blocks(block_size):
            counts = project(block.counts)
            if empty_cells == "raise":
                _refuse_unknown_cells(counts.indptr, block.cell_ids)
            totals, obs = expression.totals[block.rows], matrix.obs.iloc[block.rows]
            yield ProfileBlock(counts, project.gene_ids, totals, block.cell_ids, obs)

    if scheme.looks_ahead:
        scheme.look_ahead(profiles())
    blocks = [scheme.encode(block, max_length=limit) for block in profiles()]
    wanted = [*scheme.columns, *return_columns]
    offered = {name for block in blocks for name in block}
    if unknown := sorted(set(return_columns) - offered):
        raise ValueError(f"The scheme gives no column {', '.join(unknown)}. It gives {', '.join(sorted(offered))}.")
    columns = {name: _concatenate([block[name] for block in blocks]) for name in wanted if name in offered}
    return EncodedCells(columns, np.asarray(matrix.cell_ids), mapping.report)


def _limit(max_length: int, scheme: Scheme) -> int:
    """Most tokens a cell, as far as it leaves a place for genes."""
    special = sum(map(len, scheme.surrounding_tokens))
    if max_length <= special:
        beside = f" beside {special} special tokens" if special else ""
        raise ValueError(
            f"max_length={max_length} leaves no place for genes{beside}; None takes the model's own limit."
        )
    return min(max_length, np.iinfo(np.int32).max)


def _concatenate(parts: Sequence[Ragged | NDArray[Any]]) -> Ragged | NDArray[Any]:
    if isinstance(parts[0], Ragged):
        return Ragged.concatenate([part for part in parts if isinstance(part, Ragged)])
    return np.concatenate([part for part in parts if not isinstance(part, Ragged)])


def _refuse_unasked_species(found: str | None, asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse genes of a species that the tokenizer knows, where it is asked for those of another."""
    # Nothing is asked where the genes are of a species whose names cannot be told: rats have those of mice.
    if asked and found in known and found not in asked:
        raise GeneIdError(
            f"The genes are those of {found}, and the tokenizer is asked for those of {' and '.join(asked)}. Name the "
            f'species with species="{found}".'
        )


def _refuse_unknown_cells(indptr: NDArray[Any], cell_ids: NDArray[np.str_]) -> None:
    empty = np.flatnonzero(np.diff(indptr) == 0)
    if len(empty):
        raise ExpressionError(
            f"{len(empty)} cells express no gene of the model's vocabulary (first: "
            f"{', '.join(map(str, cell_ids[empty[:5]]))}). "
            'Remove them, or keep them with empty_cells="keep": their results are then not a number.'
        )
