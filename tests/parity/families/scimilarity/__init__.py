"""Which public call gives which array of SCimilarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parity.families.scimilarity import cells, neighbours, training
from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from parity.golden import Golden


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The folder with the files that lie beside it: the ontology, or the authors' table of symbols."""
    del weights, scratch
    beside = {role: golden.folder / name for role, name in golden.description["side_files"].items()}
    return {"source": golden.checkpoint, "files": {**golden.files, **beside}}


TABLE = RuleTable(
    family="scimilarity",
    inputs=(),
    conversion=conversion,
    rules=(
        Rule(("values", "values.lognorm_first"), cells.profiles, section="tokens"),
        Rule("centroid", cells.centroid_profile, section="tokens", when=lambda array: array.name == "centroid"),
        Rule("hidden_states.{layer}", cells.hidden_state, section="hidden states"),
        Rule("pre_norm_embedding", cells.projection, section="cell embedding"),
        Rule(("cell_embedding", "cell_embedding.lognorm_first"), cells.embedding, section="cell embedding"),
        Rule(("train.embedding_eval", "annotate_dataset.X_scimilarity"), cells.from_cells, section="cell embedding"),
        Rule("centroid.embedding", cells.centroid_embedding, section="cell embedding"),
        Rule("cluster_centroid.{group}.embedding", cells.centroid_embedding, section="cell embedding"),
        Rule("reconstruction", cells.reconstruction, section="decoder"),
        Rule("attributions", cells.attributions, section="attribution"),
        Rule("ranked_genes.{column}", cells.ranked_genes, section="attribution"),
        Rule("reference_embeddings", neighbours.reference_embeddings, section="neighbours", roles=("aux",)),
        Rule("precomputed_embeddings", neighbours.reference_embeddings, section="neighbours"),
        Rule("annotation.{run}.nn_{what}", neighbours.voting, section="neighbours"),
        Rule("annotation.{run}.{statistic}", neighbours.statistic, section="neighbours"),
        Rule("annotate_dataset.min_dist", neighbours.nearest_distance, section="neighbours"),
        Rule("search.nn_{what}", neighbours.nearest, section="neighbours"),
        Rule("compile_sample_metadata.{column}", neighbours.sample_summary_column, section="neighbours"),
        Rule("annotate_cell_index", neighbours.places, section="neighbours"),
        Rule(("exhaustive.{what}", "exhaustive2.{what}"), neighbours.within, section="neighbours"),
        Rule("centroid.nn_{what}", neighbours.of_centroid, section="neighbours"),
        Rule("cluster_centroid.{group}.nn_{what}", neighbours.of_centroid, section="neighbours"),
        Rule("centroid_exhaustive.{what}", neighbours.within_of_centroid, section="neighbours"),
        Rule("train.triplets_*", training.mined, section="triplets"),
        Rule("train.counts_{selection}", training.candidates, section="triplets"),
        Rule("train.triplet_loss", training.losses_of_triplets, section="losses"),
        Rule("eval.metrics", training.evaluation, section="losses"),
        Rule("train.step", training.step, section="losses"),
        Rule("train.l1_penalty", training.penalty, section="losses"),
        Rule("train.grad_last", training.gradient, section="losses"),
        Rule("train.running_mean0", training.running_mean, section="losses"),
        Rule("train.last_weight_after", training.weight_after, section="losses"),
        Rule(("train.sampler_weights", "train.sampler_weights_nostudy"), training.sampler_weights, section="losses"),
    ),
    left_out={"search_tiledb.*": "an approximate index that misses true neighbours; the search here is exact"},
)
