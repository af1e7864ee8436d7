"""Triplets, losses, one step of training, and how training is judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.families.scimilarity import cells
from scfm_hf.models.scimilarity.metrics_scimilarity import (
    evaluation_score,
    ontology_silhouette,
    sampling_weights,
    scaled_error,
)
from scfm_hf.models.scimilarity.triplets_scimilarity import Triplets, mine_triplets, related_labels, triplet_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.variant import Pass

    Array = NDArray[Any]

MODEL = "AutoModelForPreTraining"


def as_trained(context: Context) -> dict[str, Any]:
    """Fields of the configuration in training: the original's penalty is times the learning rate."""
    told = json.loads((context.golden.checkpoint / "hyperparameters.json").read_text(encoding="utf-8"))
    return {"negative_selection": "hardest", "projection_l1_weight": told["l1_lambda"] * told["lr"]}


def studies(context: Context) -> NDArray[np.int64] | None:
    """Number of each cell's study, where the array was made with them."""
    if "studies" in context.options and context.options["studies"] is None:
        return None
    names = context.golden.description["results"]["train.studies"]
    return np.unique(names, return_inverse=True)[1]


def mine(context: Context, selection: str) -> Triplets:
    config, seed = context.model(MODEL).config, context.golden.description["seeds"]["numpy_semihard"]
    of_cell = studies(context)
    legacy = np.random.RandomState(seed)
    return mine_triplets(
        torch.from_numpy(context.stored("train.embedding_eval")),
        torch.from_numpy(context.stored("train.labels")),
        margin=config.triplet_margin,
        selection=selection,
        related=related_labels(list(config.id2label.values()), config.label_ancestors),
        studies=None if of_cell is None else torch.from_numpy(of_cell),
        # The original calls numpy's choice for each pair that has candidates.
        choose=lambda counts: torch.tensor([legacy.choice(count) if count else 0 for count in counts.tolist()]),
    )


def mined(context: Context) -> Array:
    return mine(context, context.options["selection"]).cells.numpy()


def candidates(context: Context) -> Array:
    found = mine(context, context.parts["selection"])
    return np.array([found.n_hard, found.n_viable])


def losses_of_triplets(context: Context) -> Array:
    given = Triplets(torch.from_numpy(context.stored("train.triplets_hardest")), 0, 0)
    embeddings = torch.from_numpy(context.stored("train.embedding_eval"))
    return triplet_losses(embeddings, given, margin=context.options["margin"]).numpy()


def batch(context: Context, *, with_studies: bool) -> dict[str, Tensor]:
    labels = {"labels": torch.from_numpy(context.stored("train.labels"))}
    if with_studies:
        labels["studies"] = torch.from_numpy(studies(context))
    return {**cells.tokens(context), **labels}


def evaluation(context: Context) -> Array:
    model, given = context.model(MODEL, negative_selection="hardest"), batch(context, with_studies=False)
    with torch.no_grad():
        outputs = model(**given)
        profiles = model.scimilarity.profiles(given["input_ids"], given["values"], given["attention_mask"])
    triplet, error = (float(outputs.losses[name]) for name in ("triplet", "reconstruction"))
    names = [model.config.id2label[label] for label in given["labels"].tolist()]
    width = ontology_silhouette(outputs.cell_embedding, names, ancestors=model.config.label_ancestors, as_original=True)
    scores = (width, scaled_error(error, profiles), evaluation_score(width, error, profiles))
    return np.array([triplet, error, float(outputs.loss), *scores])


def trained(context: Context) -> Pass:
    return context.cached(
        "training step",
        lambda: context.training_pass(
            MODEL, load=as_trained(context), prepare=lambda stored: batch(context, with_studies=True)
        ),
    )


def step(context: Context) -> Array:
    outputs = trained(context).outputs
    hard, viable = outputs["triplet_counts"]
    non_zero = (outputs["triplet_losses"] > 0).sum()
    parts = [outputs["losses"][name] for name in ("triplet", "reconstruction")]
    return np.array([outputs["loss"], *parts, hard / viable, non_zero, hard, viable])


def penalty(context: Context) -> Array:
    return np.atleast_1d(trained(context).outputs["losses"]["l1"] * as_trained(context)["projection_l1_weight"])


def last_weight(context: Context) -> str:
    """Name of the last linear layer's weight."""
    return context.tensor_name(f"network.{len(context.model(MODEL).config.hidden_sizes)}.weight")


def gradient(context: Context) -> Array:
    return trained(context).gradients[last_weight(context)]


def running_mean(context: Context) -> Array:
    return trained(context).state[context.tensor_name("network.0.2.running_mean")]


def weight_after(context: Context) -> Array:
    options, name = context.options, last_weight(context)
    weight = context.model(MODEL).get_parameter(name).detach().clone().requires_grad_()
    weight.grad = torch.from_numpy(trained(context).gradients[name])
    torch.optim.AdamW([weight], lr=options["lr"], weight_decay=options["weight_decay"]).step()
    return weight.detach().numpy()


def sampler_weights(context: Context) -> Array:
    return sampling_weights(context.stored("train.labels"), studies(context))
