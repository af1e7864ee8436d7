"""From cells to profiles, states, embeddings, reconstructions and attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.models.scimilarity.attribution_scimilarity import attribute_genes, rank_genes
from scfm_hf.models.scimilarity.search_scimilarity import pool_cells

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

ENCODER = "AutoModel"


def tokens(context: Context, **options: Any) -> dict[str, Tensor]:
    """Tokens of this array's cells, names matched as the original does."""
    encoded = context.tokens(exact_names=True, min_overlap=0.0, total_over=total_over(context), **options)
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in encoded.items()}


def total_over(context: Context) -> str:
    """Cells that are normalised before they are aligned have totals over all of their genes."""
    first = context.options.get("order", [""])[0]
    return "all_genes" if first == "lognorm_counts" or context.name.startswith("annotate_dataset") else "model_genes"


def profiles(context: Context) -> Array:
    return context.model(ENCODER).profiles(**tokens(context)).numpy()


def embedding(context: Context) -> Array:
    return context.outputs(ENCODER)["cell_embedding"]


def projection(context: Context) -> Array:
    return context.outputs(ENCODER, load={"pooling": "projection"})["cell_embedding"]


def hidden_state(context: Context) -> Array:
    return context.outputs(ENCODER, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def embed(context: Context, batch: dict[str, Tensor]) -> Array:
    with torch.no_grad():
        return context.model(ENCODER)(**batch).cell_embedding.numpy()


def from_cells(context: Context) -> Array:
    """All the way from the counts."""
    return embed(context, tokens(context))


def reconstruction(context: Context) -> Array:
    """Of the profiles whose embedding was stored."""
    with torch.no_grad():
        model = context.model("AutoModelForPreTraining")
        return model(values=torch.from_numpy(context.stored("values"))).predicted_values.numpy()


# ---------------------------------------------------------------------------------------------------------- centroids


def pooled(context: Context) -> anndata.AnnData:
    """The one group of cells that the array is of."""
    column, wanted = group_of(context)
    cells = context.adata()
    return pool_cells(cells[(cells.obs[column] == wanted).to_numpy()], by=column)


def group_of(context: Context) -> tuple[str, str]:
    """Column of obs, and the label of the cells that are pooled."""
    if "cluster" in context.options:
        return context.options["obs"], context.options["cluster"]
    ((column, wanted),) = context.golden.arrays["centroid"].options["used"].items()
    return column, wanted


def centroid_tokens(context: Context) -> dict[str, Tensor]:
    options = {"gene_column": "var_names", "exact_names": True, "min_overlap": 0.0}
    return dict(context.tokenizer()(pooled(context), padding=True, return_tensors="pt", **options))


def centroid_profile(context: Context) -> Array:
    return context.model(ENCODER).profiles(**centroid_tokens(context)).numpy()


def centroid_embedding(context: Context) -> Array:
    return embed(context, centroid_tokens(context))


# --------------------------------------------------------------------------------------------------------- attribution


def attributed(context: Context, n_steps: int) -> Array:
    anchors, negatives = (torch.from_numpy(context.stored(name)) for name in ("values", "attributions.negatives"))
    return attribute_genes(context.model(ENCODER), anchors, negatives, n_steps=n_steps)


def attributions(context: Context) -> Array:
    return attributed(context, context.options["steps"])


def ranked_genes(context: Context) -> Array:
    """Of our own attributions, whose order is then the original's too."""
    table = rank_genes(
        attributed(context, context.golden.arrays["attributions"].options["steps"]),
        context.tokenizer().vocabulary.gene_tokens,
    )
    column = {"gene_idx": "index"}.get(context.parts["column"], context.parts["column"])
    return table[column].to_numpy()[: context.array.shape[0]]
