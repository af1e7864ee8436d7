"""Measures embeddings: labels across studies, mixing of studies, and learning from a few labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from corpus import COARSE, Study
from gene_choice import Choice, scaled_values
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.utils.extmath import randomized_svd
from train import tokens_of

from scfm_hf.tasks.own_components import join_unit, log_values, principal_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfm_hf.models.cellprofile.modeling_cellprofile import CellProfileModel

#: Studies over their common genes -> one matrix of vectors each.
Embedding = Callable[[Sequence[Study]], list[Any]]
CELLS_A_BATCH = 128
N_NEIGHBOURS, N_DRAWS, N_RESAMPLED = 15, 5, 500
MOST_REFERENCE, MOST_QUERY, MOST_A_CLASS = 2000, 1500, 150
#: A vector of unit length asks for a stronger logistic regression than log counts do.
UNIT_SCALE = 8.0


def corpus_svd(studies_of_corpus: Sequence[Study], choice: Choice, n_components: int = 64) -> Embedding:
    """Main directions of variation within the studies of the corpus, each divided by the root of its deviation."""
    random = np.random.default_rng(1)
    centred = []
    for study in studies_of_corpus:
        rows = random.choice(len(study.totals), min(1000, len(study.totals)), replace=False)
        values = scaled_values(study.take(rows), choice).toarray()
        centred.append(values - values.mean(0))
    stacked = np.concatenate(centred)
    _, _, axes = randomized_svd(stacked, n_components, random_state=0)
    lines = (axes.T / np.sqrt((stacked @ axes.T).std(0))).astype(np.float32)
    return lambda studies: [scaled_values(study, choice) @ lines for study in studies]


def of_model(model: CellProfileModel, choice: Choice, pooling: str = "joined", scale: float = 1.0) -> Embedding:
    """The model's embedding, from the values that its tokenizer gives."""

    def embed(studies: Sequence[Study]) -> list[Any]:
        found = []
        for study in studies:
            values = scaled_values(study, choice)
            parts = []
            with torch.inference_mode(), model.embedding_options(pooling=pooling):
                for start in range(0, values.shape[0], CELLS_A_BATCH):
                    batch = tokens_of(values[start : start + CELLS_A_BATCH])
                    parts.append(scale * model(**batch).cell_embedding.numpy())
            found.append(np.concatenate(parts))
        return found

    return embed


def log_counts(studies: Sequence[Study]) -> list[Any]:
    """log(1 + counts per 10,000)."""
    return [log_values(study.counts, study.totals) for study in studies]


def highly_variable_pca(*, see_query: bool) -> Embedding:
    """2,000 variable genes, scaled, cut at 10, 50 components; fitted on the first study or on all."""
    return lambda studies: principal_components([study.counts for study in studies], fitted_on=None if see_query else 1)


def joined(*embeddings: Embedding) -> Embedding:
    """Several side by side, each of unit length."""
    return lambda studies: [join_unit(*parts) for parts in zip(*(embed(studies) for embed in embeddings), strict=True)]


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return join_unit(vectors)


def shared_cells(reference: Study, query: Study, seed: int) -> tuple[Study, Study, list[str]]:
    """Labelled cells over the genes that both measured, words made equally coarse, and the classes both have."""
    both = reference.measured & query.measured
    words = set(reference.labels) | set(query.labels)
    random = np.random.default_rng(seed)
    made = []
    for study, most in ((reference, MOST_REFERENCE), (query, MOST_QUERY)):
        counts = study.counts.multiply(both).tocsr()
        labels = study.labels.copy()
        for coarse, kinds in COARSE.items():
            if coarse in words:
                labels[np.isin(labels, kinds)] = coarse
        totals = np.asarray(counts.sum(1), np.float32).ravel()
        made.append((Study(counts, totals, both, labels, study.parts), most))
    shared = sorted((set(made[0][0].labels) & set(made[1][0].labels)) - {""})
    taken = []
    for number, (study, most) in enumerate(made):
        rows = np.flatnonzero(study.labels != "" if number == 0 else np.isin(study.labels, shared))
        rows = rows if len(rows) <= most else random.choice(rows, most, replace=False)
        taken.append(study.take(rows))
    return taken[0], taken[1], shared


def transfer(embed: Embedding, reference: Study, query: Study, seed: int = 0) -> dict[str, Any]:
    """Macro-F1 of 15 nearest neighbours by cosine (mean of draws of 80 % of the reference), mixing and purity.

    ``resampled`` has the macro-F1 of bootstrap samples of the query's cells, which are the same for every embedding.
    """
    first, second, shared = shared_cells(reference, query, seed)
    vectors = [_unit(np.asarray(part, np.float32)) for part in embed([first, second])]
    random = np.random.default_rng(seed)
    told = []
    for _ in range(N_DRAWS):
        rows = random.choice(len(first.labels), int(0.8 * len(first.labels)), replace=False)
        told.append(_vote(vectors[1] @ vectors[0][rows].T, first.labels[rows]))
    return {
        **_scores(second.labels, told, shared),
        **mixing(vectors, [first.labels, second.labels], shared, random),
    }


def transfer_by_regression(reference: Study, query: Study, seed: int = 0) -> dict[str, Any]:
    """As :func:`transfer`, by a logistic regression on the log counts of all of the reference."""
    first, second, shared = shared_cells(reference, query, seed)
    values = log_counts([first, second])
    fitted = LogisticRegression(max_iter=300).fit(values[0], first.labels)
    return {**_scores(second.labels, [fitted.predict(values[1])], shared), "mixing": np.nan, "purity": np.nan}


def _scores(labels: NDArray[np.str_], told: Sequence[NDArray[np.str_]], shared: Sequence[str]) -> dict[str, Any]:
    """Mean macro-F1 of several ways to be told, of the cells and of bootstrap samples of them."""
    times = np.random.default_rng(0).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), N_RESAMPLED)
    weights = np.concatenate([np.ones((1, len(labels))), times])
    scores = np.mean([macro_f1(labels, one, shared, weights) for one in told], 0)
    return {"macro_f1": float(scores[0]), "resampled": scores[1:]}


def macro_f1(
    wanted: NDArray[np.str_], found: NDArray[np.str_], classes: Sequence[str], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Mean of the classes' F1, with cells counted by each line of weights, (n_lines, n_cells) -> (n_lines,)."""
    each = []
    for word in classes:
        right = weights @ ((wanted == word) & (found == word))
        each.append(2 * right / np.maximum(weights @ (wanted == word) + weights @ (found == word), 1e-9))
    return np.mean(each, 0)


def _vote(similarity: NDArray[np.float32], labels: NDArray[np.str_]) -> NDArray[np.str_]:
    nearest = np.argpartition(-similarity, N_NEIGHBOURS, 1)[:, :N_NEIGHBOURS]
    words, numbers = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(similarity), len(words)))
    for place in range(N_NEIGHBOURS):
        column = nearest[:, place]
        # Similarity breaks ties between classes with as many votes.
        np.add.at(votes, (np.arange(len(votes)), numbers[column]), 1 + 1e-6 * similarity[np.arange(len(votes)), column])
    return words[votes.argmax(1)]


def mixing(
    vectors: Sequence[NDArray[Any]], labels: Sequence[NDArray[np.str_]], shared: Sequence[str], random: Any
) -> dict[str, float]:
    """Share of neighbours from the other study over one half, and of the same class, in a balanced sample; means over
    classes."""
    rows, sides, words = [], [], []
    for word in shared:
        found = [np.flatnonzero(one == word) for one in labels]
        size = min(100, *map(len, found))
        if size < N_NEIGHBOURS:
            continue
        for side, one in enumerate(found):
            rows.append(vectors[side][random.choice(one, size, replace=False)])
            sides += [side] * size
            words += [word] * size
    if not rows:
        return {"mixing": np.nan, "purity": np.nan}
    stacked, side, word = np.concatenate(rows), np.array(sides), np.array(words)
    similarity = stacked @ stacked.T
    np.fill_diagonal(similarity, -2)
    nearest = np.argpartition(-similarity, N_NEIGHBOURS, 1)[:, :N_NEIGHBOURS]
    other, same = (side[nearest] != side[:, None]).mean(1) / 0.5, (word[nearest] == word[:, None]).mean(1)
    each = np.unique(word)
    return {
        "mixing": float(np.mean([other[word == one].mean() for one in each])),
        "purity": float(np.mean([same[word == one].mean() for one in each])),
    }


def few_labels(embed: Embedding, study: Study, sizes: Sequence[int] = (1, 5, 10, 20), n_draws: int = 6) -> list[float]:
    """Macro-F1 of a logistic regression on so many labels a class; classes with 30 cells or more."""
    counted = [word for word in np.unique(study.labels) if word and (study.labels == word).sum() >= 30]
    study = study.take(np.isin(study.labels, counted))
    vectors = embed([study])[0]
    means = []
    for size in sizes:
        scores = []
        for draw in range(n_draws):
            random = np.random.default_rng(draw)
            order = [random.permutation(np.flatnonzero(study.labels == word)) for word in counted]
            train = np.concatenate([one[:size] for one in order])
            test = np.concatenate([one[size : size + MOST_A_CLASS] for one in order])
            fitted = LogisticRegression(max_iter=300).fit(vectors[train], study.labels[train])
            scores.append(f1_score(study.labels[test], fitted.predict(vectors[test]), average="macro"))
        means.append(float(np.mean(scores)))
    return means
