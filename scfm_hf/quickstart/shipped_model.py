"""The model that ships labels cells that it never saw, beside what needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.quickstart.cells import LABELS, few_of_each
from scfm_hf.quickstart.figures import resample, scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.quickstart.figures import Figures

MODEL = "scfm_hf/cellprofile-human"
#: Labelled cells a class in the second table, and how often they are drawn.
N_LABELS, N_DRAWS = 5, 5


def label_by_shipped_model(reference: AnnData, query: AnnData, *, seed: int) -> Figures:
    """Figures of the model and of the baselines, with all labelled cells and with a few of each class."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(MODEL)
    print(f"{MODEL}: {model.num_parameters():,} parameters, loaded from this package")
    times = resample(query.n_obs, seed)
    draws = [few_of_each(reference, N_LABELS, draw) for draw in range(N_DRAWS)]
    figures: Figures = {"all labelled cells": {}, f"{N_LABELS} labelled cells a class": {}}
    for name, way in _ways(model, seed).items():
        told = [[way(reference, query)], [way(one, query) for one in draws]]
        for table, found in zip(figures.values(), told, strict=True):
            table[name] = scores(query.obs[LABELS], found, times)
    return figures


def _ways(model: Any, seed: int) -> dict[str, Callable[[AnnData, AnnData], NDArray[Any]]]:
    from scfm_hf.tasks.annotate import annotate

    def by(method: str, features: str) -> Callable[[AnnData, AnnData], NDArray[Any]]:
        def way(reference: AnnData, query: AnnData) -> NDArray[Any]:
            options: dict[str, Any] = {"method": method, "features": features, "seed": seed, "progress": False}
            n_neighbors = min(15, int(reference.obs[LABELS].value_counts().min()))
            labelled = annotate(
                query, model, reference=reference, labels=LABELS, key_added="told", n_neighbors=n_neighbors, **options
            )
            assert labelled is not None
            return labelled.obs["told_predicted"].astype(str).to_numpy()

        return way

    return {
        "shipped model, neighbours": by("neighbours", "embedding"),
        "shipped model joined with PCA, neighbours": by("neighbours", "joined"),
        "HVG + PCA, neighbours": neighbours_of_components,
        "logistic regression on log counts": regression_on_log_counts,
    }


def neighbours_of_components(reference: AnnData, query: AnnData) -> NDArray[Any]:
    """15 nearest neighbours by cosine in the principal components of reference and query."""
    from sklearn.neighbors import KNeighborsClassifier

    from scfm_hf.tasks.own_components import join_unit, principal_components

    wanted = reference.obs[LABELS].astype(str)
    first, second = principal_components([reference.X, query.X])
    n_neighbors = min(15, int(wanted.value_counts().min()))
    return KNeighborsClassifier(n_neighbors).fit(join_unit(first), wanted).predict(join_unit(second))


def regression_on_log_counts(reference: AnnData, query: AnnData) -> NDArray[Any]:
    """Logistic regression on log-normalised counts of all genes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import MaxAbsScaler

    from scfm_hf.tasks.own_components import log_values

    scaler = MaxAbsScaler().fit(log_values(reference.X))
    model = LogisticRegression(max_iter=1000, random_state=0)
    model.fit(scaler.transform(log_values(reference.X)), reference.obs[LABELS].astype(str))
    return np.asarray(model.predict(scaler.transform(log_values(query.X))))
