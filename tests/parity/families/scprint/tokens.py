"""Tokens of scPRINT, and the cells as its preprocessing leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

from scfm_hf.cells import CellMatrix
from scfm_hf.genes import GeneMapper, GeneVocabulary
from scfm_hf.tokenization.draws import SharedDraws
from scfm_hf.tokenization.profiles import GeneProjection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from parity.context import Context

    Array = NDArray[Any]

SELECTIONS = {"most expr": "most_expressed", "random expr": "random", "some": "all"}


def aligned(context: Context) -> anndata.AnnData:
    """The cells over all genes of the organism, as the original's preprocessing leaves them; 0 where one is absent."""

    def align() -> anndata.AnnData:
        (step,) = (one for one in context.golden.description["preprocess"] if one["step"] == "align")
        table = np.loadtxt(context.golden.checkpoint / step["to"], dtype=str, delimiter=",", skiprows=1)
        genes = table[table[:, 2] == step["organism"], 0]
        vocabulary = GeneVocabulary(genes.tolist(), special_tokens={}, id_kind="ensembl_id", species=())
        matrix = CellMatrix(context.adata(), gene_column=context.case.gene_column)
        mapping = GeneMapper(vocabulary, strip_versions=False, use_tables=False).map(matrix.gene_names.tolist())
        project = GeneProjection(mapping.indices)
        (block,) = matrix.blocks(matrix.n_cells)
        counts = np.zeros((matrix.n_cells, len(genes)), np.float32)
        counts[:, project.gene_ids] = project(block.counts).toarray()
        cells = anndata.AnnData(counts)
        cells.obs_names, cells.var_names = matrix.cell_ids, genes
        return cells

    return context.cached(("aligned cells", context.case.name), align)


def aligned_counts(context: Context) -> Array:
    return aligned(context).X[list(context.cells)]


def encoded(context: Context, **options: Any) -> dict[str, Array]:
    """What the tokenizer gives; the original draws for all cells from one stream, cells in order."""
    return context.tokens(
        adata=aligned(context), gene_column="var_names", exact_names=True, min_overlap=0.0, key="aligned", **options
    )


def plain(name: str) -> Callable[[Context], Array]:
    """The highest counts."""

    def compute(context: Context) -> Array:
        longest = context.golden.description["tokenizer"]["max_len"]
        return with_ties(context, encoded(context, selection="most_expressed", max_length=longest), name)

    return compute


def with_ties(context: Context, found: Mapping[str, Array], name: str) -> Array:
    """Where several genes have a count, any of them may stand; those of the original must have that count, too."""
    if name != "input_ids":
        return found[name]
    ids, values = found["input_ids"].astype(float), found["values"]
    vocabulary = context.tokenizer().vocabulary
    stored = context.stored(context.name)
    for row, cell in enumerate(context.cells):
        profile = dict(zip(vocabulary.ids(aligned(context).var_names), aligned(context).X[cell], strict=True))
        counts = np.array(list(profile.values()))
        distinct = len(set(stored[row].tolist())) == len(stored[row])
        for place in range(ids.shape[1]):
            tied = values[row, place] > 0 and (counts == values[row, place]).sum() > 1
            if tied and distinct and profile.get(stored[row, place]) == values[row, place]:
                ids[row, place] = stored[row, place]
    return ids


def collation(context: Context) -> Array:
    """Tokens of a collation, which its name tells."""
    name, column = context.parts["collation"], context.name.rpartition(".")[2]
    told = context.golden.description["tokenizer"]
    options = told["collations"][name]
    if options["how"] == "some":
        return encoded(context, genes=told["grn_genes"])[column]
    draws = SharedDraws(options["numpy_seed"])
    adata = aligned(context)
    found = context.tokenizer()(
        adata, padding=True, return_tensors="np", gene_column="var_names", exact_names=True, min_overlap=0.0,
        selection=SELECTIONS[options["how"]], added_genes=options.get("add_zero_genes", 0),
        max_length=options["max_len"], shuffle="jan2025" in context.name, draws=draws,
    )  # fmt: skip
    found = {name: values[list(context.cells)] for name, values in found.items()}
    return with_ties(context, found, column) if options["how"] == "most expr" else found[column]
