"""Annotation and search: neighbours in the reference cells of the original's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from parity.families.scimilarity import cells
from scfm_hf.models.scimilarity.annotation_scimilarity import annotate_by_neighbours
from scfm_hf.models.scimilarity.reference_scimilarity import CellReference
from scfm_hf.models.scimilarity.search_scimilarity import places_in_samples, query_coherence, sample_summary

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from parity.context import Context
    from scfm_hf.models.scimilarity.reference_scimilarity import Hits

    Array = NDArray[Any]

#: The original's names of the statistics -> ours.
STATISTICS = {"dist": "distance", "vs2nd": "share_of_two", "vsAll": "share"}


def labelled(context: Context) -> CellReference:
    """The cells that annotation votes with."""
    folder = context.golden.checkpoint / "annotation"
    index, labels = folder / "labelled_kNN.bin", folder / "reference_labels.tsv"
    return context.cached("labelled", lambda: CellReference.from_hnswlib(index, labels))


def searched(context: Context) -> CellReference:
    """The cells that search goes through."""
    index, metadata = context.golden.checkpoint / "cellsearch" / "full_kNN.bin", context.golden.folder
    metadata /= context.golden.description["side_files"]["cell_metadata"]
    return context.cached("searched", lambda: CellReference.from_hnswlib(index, metadata))


def reference_embeddings(context: Context) -> Array:
    chosen = context.options.get("index", slice(None))
    return searched(context).embeddings[chosen]


def part(hits: Hits, what: str) -> Array:
    return {"idxs": hits.cells, "dists": hits.distances, "idx": hits.cells, "dist": hits.distances}.get(
        what, hits.counts
    )


# ---------------------------------------------------------------------------------------------------------- annotation


def voting(context: Context) -> Array:
    """The neighbours that vote, all cells of the labels that may be given."""
    reference, options = labelled(context), context.options
    among = reference.matching(**({"label": options["safelist"]} if "safelist" in options else {}))
    among &= ~reference.matching(label=options.get("blocklist", []))
    hits = reference.nearest(context.stored("cell_embedding"), n_neighbors=options["k"], among=among)
    return part(hits, context.parts["what"]).reshape(hits.n_queries, -1)


def annotated(context: Context) -> pd.DataFrame:
    options = context.options
    table = annotate_by_neighbours(
        context.stored("cell_embedding"),
        labelled(context),
        n_neighbors=options["k"],
        weighted=options["weighting"],
        only=options.get("safelist"),
        without=options.get("blocklist"),
    )
    stored = context.golden.description["results"][options["result"]]
    assert table["prediction"].tolist() == stored["predictions"]
    assert table["votes"].tolist() == stored["hits"]
    return table


def statistic(context: Context) -> Array:
    name, _, suffix = context.parts["statistic"].partition("_")
    if suffix == "dist":
        return annotated(context)[f"{name}_distance"].to_numpy()
    return annotated(context)[("weighted_" if suffix else "") + STATISTICS[name]].to_numpy()


def nearest_distance(context: Context) -> Array:
    """Of cells that were normalised over all of their genes."""
    table = annotate_by_neighbours(cells.from_cells(context), labelled(context), n_neighbors=context.options["k"])
    stored = context.golden.description["results"][context.options["result"]]
    assert table["prediction"].tolist() == stored["celltype_hint"]
    return table["min_distance"].to_numpy()


# -------------------------------------------------------------------------------------------------------------- search


def search(context: Context) -> Hits:
    k = context.golden.arrays["search.nn_idxs"].options["k"]
    return searched(context).nearest(context.golden.values("cell_embedding"), n_neighbors=k)


def nearest(context: Context) -> Array:
    hits = search(context)
    return part(hits, context.parts["what"]).reshape(hits.n_queries, -1)[list(context.cells)]


def sample_summary_column(context: Context) -> Array:
    table = sample_summary(search(context), searched(context))
    return table.loc[table["query"].isin(context.options["queries"]), context.parts["column"]].to_numpy()


def places(context: Context) -> Array:
    rows = search(context).cells[: context.array.shape[0]]
    return places_in_samples(searched(context)).to_numpy()[rows]


def within(context: Context) -> Array:
    reference, options = searched(context), context.options
    hits = reference.within(
        context.stored("cell_embedding"),
        max_distance=options["max_dist"],
        among=reference.matching(**options["metadata_filter"]),
    )
    return part(hits, context.parts["what"])


def of_centroid(context: Context) -> Array:
    k = context.options["k"]
    hits = searched(context).nearest(cells.centroid_embedding(context), n_neighbors=k)
    found = part(hits, context.parts["what"])
    if "group" in context.parts:
        return found
    check_coherence(context, hits, context.golden.description["results"]["centroid"]["query_coherence"])
    return np.atleast_2d(found)


def within_of_centroid(context: Context) -> Array:
    hits = searched(context).within(cells.centroid_embedding(context), max_distance=context.options["max_dist"])
    check_coherence(context, hits, context.golden.description["results"]["centroid_exhaustive"]["query_coherence"])
    return part(hits, context.parts["what"])


def check_coherence(context: Context, hits: Hits, expected: float) -> None:
    """How well the pooled cells fit together, which the golden holds as a number beside the arrays."""
    of_centroid = context.golden.description["results"]["centroid"]
    column, wanted = cells.group_of(context)
    pooled = context.adata().obs[column].to_numpy() == wanted
    found = query_coherence(
        cells.from_cells(context)[pooled],
        hits.cells,
        searched(context),
        n_parts=of_centroid["qc_params"]["k_clusters"],
        seed=of_centroid["random_seed"],
    )
    assert found == expected, f"coherence {found} instead of {expected}"
