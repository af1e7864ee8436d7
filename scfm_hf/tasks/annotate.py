"""annotate: label cells by their neighbours in a reference, by a linear probe, or by a fine-tuned classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from scfm_hf.tasks.batches import batches_by_length
from scfm_hf.tasks.embed import embed_encoded
from scfm_hf.tasks.loading import LoadedModel, ModelLike, load_for_task
from scfm_hf.tasks.own_components import common_counts, join_unit, principal_components
from scfm_hf.tasks.results import holder, record

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer

Method = Literal["neighbours", "linear", "classifier"]
#: What labels are told from, see :func:`annotate`.
Features = Literal["embedding", "joined"]


def annotate(
    adata: AnnData,
    model: ModelLike,
    *,
    reference: AnnData | None = None,
    labels: str = "cell_type",
    method: Method | None = None,
    features: Features = "embedding",
    n_components: int = 50,
    n_neighbors: int = 15,
    unknown_below: float = 0.0,
    tokenizer: CellTokenizer | str | None = None,
    base: PreTrainedModel | str | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int = 8_192,
    seed: int = 0,
    revision: str | None = None,
    device: str | None = None,
    inplace: bool = False,
    progress: bool = True,
    **options: Any,
) -> AnnData | None:
    """Label cells, with probabilities and, on request, an "unknown" for cells that the model is not sure of.

    Parameters
    ----------
    adata
        Cells to label, with the values that the model wants.
    model
        An encoder (``neighbours``, ``linear``) or a fine-tuned classifier (``classifier``): loaded, a folder, or a hub
        id.
    reference
        Labelled cells; needed by ``neighbours`` and ``linear``.
    labels
        Column of ``reference.obs`` with the labels; cells without one are left out.
    method
        ``neighbours``: share of the votes of the nearest reference cells by cosine similarity. ``linear``: logistic
        regression on standardised embeddings. ``classifier``: the model's own head. None: ``neighbours`` with a
        reference, else ``classifier``.
    features
        What ``neighbours`` and ``linear`` tell labels from. ``embedding``: the model's embedding, so that the label of
        a cell depends on that cell and the reference alone. ``joined``: the embedding beside the principal components
        of reference and query together, each scaled to unit length. It often tells more, but the label of a cell then
        **depends on all the cells that are labelled with it**, so it is never the default.
    n_components
        Principal components of ``joined``; see
        :func:`scfm_hf.tasks.own_components.principal_components`.
    n_neighbors
        Neighbours that vote.
    unknown_below
        Label a cell "unknown" if its best probability is below this; 0 labels all.
    tokenizer, base, layer, batch_size, tokens_per_batch, revision, device, progress, **options
        As in :func:`scfm_hf.embed`.
    key_added
        Prefix of the results; None: ``labels``.
    seed
        Of the linear probe.
    inplace
        Write into ``adata`` and return None; else return a copy with the results.

    Returns
    -------
    A copy of ``adata`` with ``obs[f"{key}_predicted"]`` (categorical), ``obs[f"{key}_probability"]`` (of the best
    class), ``obsm[f"{key}_probabilities"]`` (DataFrame, a column a class) and ``uns["scfm"]["annotate"]``.

    Raises
    ------
    ValueError
        If the method needs a reference that was not given, a reference has fewer than two classes, or joined features
        are asked of a classifier or of data sets without a gene in common.
    KeyError
        If the reference has no such column.
    """
    method = method or ("neighbours" if reference is not None else "classifier")
    if method not in ("neighbours", "linear", "classifier"):
        raise ValueError(f"method={method!r} is none of 'neighbours', 'linear', 'classifier'.")
    if features not in ("embedding", "joined"):
        raise ValueError(f"features={features!r} is neither 'embedding' nor 'joined'.")
    if features == "joined" and method == "classifier":
        raise ValueError("A classifier has features of its own: features='joined' goes with a reference.")
    auto_class = AutoModelForSequenceClassification if method == "classifier" else AutoModel
    loaded = load_for_task(model, tokenizer, base=base, auto_class=auto_class, revision=revision, device=device)
    limits: dict[str, Any] = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "progress": progress}
    if method == "classifier":
        probabilities = _classify(adata, loaded, layer, options, **limits)
    else:
        known, wanted = _labelled(reference, labels)
        query = embed_encoded(loaded.tokenizer.encode_cells(adata, layer=layer, **options), loaded, **limits)
        fitted = embed_encoded(loaded.tokenizer.encode_cells(known, layer=layer, **options), loaded, **limits)
        if features == "joined":
            counts = common_counts([known, adata], loaded.tokenizer, layer=layer, **options)
            own = principal_components(counts, n_components=n_components, seed=seed)
            fitted, query = join_unit(fitted, own[0]), join_unit(query, own[1])
        probe = _neighbours(n_neighbors, len(wanted)) if method == "neighbours" else _linear(seed)
        probe.fit(fitted.astype(np.float64), wanted)
        probabilities = pd.DataFrame(
            probe.predict_proba(query.astype(np.float64)), columns=[str(name) for name in probe.classes_]
        )

    target, key = holder(adata, inplace=inplace), key_added or labels
    probabilities.index = target.obs_names
    best = probabilities.to_numpy().max(1)
    names = probabilities.columns.to_numpy()[probabilities.to_numpy().argmax(1)].astype(object)
    names[best < unknown_below] = "unknown"
    categories = [
        *probabilities.columns,
        *(["unknown"] if unknown_below > 0 and "unknown" not in probabilities else []),
    ]
    target.obs[f"{key}_predicted"] = pd.Categorical(names, categories=categories)
    target.obs[f"{key}_probability"] = best
    target.obsm[f"{key}_probabilities"] = probabilities
    settings: dict[str, Any] = {
        "n_neighbors": n_neighbors if method == "neighbours" else None,
        "seed": seed if method == "linear" else None,
        "features": features if method != "classifier" else None,
        "n_components": n_components if features == "joined" else None,
    }
    settings |= {"labels": labels, "unknown_below": unknown_below, "layer": layer, **options}
    record(target, "annotate", loaded, method=method, **settings)
    return None if inplace else target


def _labelled(reference: AnnData | None, labels: str) -> tuple[AnnData, NDArray[Any]]:
    """The labelled cells of a reference and their labels."""
    if reference is None:
        raise ValueError("This method labels cells by those of a labelled reference: give one with reference=.")
    if labels not in reference.obs:
        raise KeyError(f"reference.obs has no column {labels!r}. It has {', '.join(map(repr, reference.obs.columns))}.")
    known = reference.obs[labels].notna().to_numpy()
    wanted = reference.obs[labels][known].astype(str).to_numpy()
    if len(set(wanted)) < 2:
        raise ValueError(f"reference.obs[{labels!r}] has {len(set(wanted))} classes; at least two are needed.")
    return (reference if known.all() else reference[known]), wanted


def _neighbours(n_neighbors: int, n_cells: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    # Euclidean distance on unit vectors orders as cosine similarity does, and has a fast index.
    return make_pipeline(Normalizer(), KNeighborsClassifier(min(n_neighbors, n_cells)))


def _linear(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed))


def _classify(
    adata: AnnData, loaded: LoadedModel, layer: str | None, options: dict[str, Any], **limits: Any
) -> pd.DataFrame:
    """Probabilities of the model's own classes, a line a cell."""
    from tqdm.auto import tqdm

    model = loaded.model
    encoded = loaded.tokenizer.encode_cells(adata, layer=layer, **options)
    columns = dict(loaded.tokenizer.scheme().columns)
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    result = np.empty((len(encoded), len(names)))
    show = limits.pop("progress")
    training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            tqdm(total=len(encoded), unit="cell", desc="annotate", disable=not show, delay=1) as bar,
        ):
            for rows, inputs in batches_by_length(encoded, columns, **limits):
                logits = model(**{name: values.to(model.device) for name, values in inputs.items()}).logits
                result[rows] = logits.double().softmax(-1).cpu().numpy()
                bar.update(len(rows))
    finally:
        model.train(training)
    return pd.DataFrame(result, columns=names)
