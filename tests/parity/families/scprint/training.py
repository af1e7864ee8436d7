"""Losses of scPRINT, and a step of its pretraining."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.families.scprint.models import BASE, WHOLE, prepared
from scfm_hf.models.scprint.training_scprint import Pass, pretraining_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

TERMS = {
    "expr": "expression",
    "expr_mvc": "cell_expression",
    "cls": "class",
    "adv_cls": "adversarial",
    "adv_batch": "batch",
    "ecs": "similarity",
    "class_emb_sim": "dissimilarity",
    "emb_independence": "dissimilarity",
}
#: Passes by how the original calls them, some with their share in percent (``mask_30%``).
PASSES = {"full_forward": "full", "mask": "mask", "denoise": "denoise", "gen": "generation"}


def labelled(context: Context) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The counts are what is to be predicted."""

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return prepared(context)({**batch, "labels": batch["values"]})

    return context.cached("labelled", lambda: prepare)


def losses(context: Context) -> dict[str, Any]:
    """Terms and their sum; version 2 of the original cannot run the term of batches."""
    plain_sum = context.name == "loss.plain_total"
    load = {"profile_error": context.name in ("loss", "loss.expr"), "group_column_in_mean": True}
    if plain_sum:
        load |= {"similarity_weight": 0.0, "adversarial_weight": 0.0}
    if context.name == "loss.nb":
        load["zero_inflated"] = False
    first = context.model(BASE).config.base_first and not plain_sum
    rename = {} if first else {"batch": None}
    return context.outputs(WHOLE, load=load, rename=rename, prepare=labelled(context))


def term(context: Context) -> Array:
    return losses(context)["terms"][TERMS[context.name.removeprefix("loss.").removeprefix("plain_")]]


def class_loss(context: Context) -> Array:
    """The term of one class: of the others nothing is known."""
    place = context.model(BASE).config.class_names.index(context.options["class"])

    def only_this(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        known = torch.full_like(batch["class_ids"], -1)
        known[:, place] = batch["class_ids"][:, place]
        return prepared(context)({**batch, "class_ids": known})

    prepare = context.cached(("class", place), lambda: only_this)
    load = {"group_column_in_mean": True}
    found = context.outputs(WHOLE, load=load, rename={"batch": None}, prepare=prepare)
    return found["terms"]["class"]


def step(context: Context) -> tuple[Array, dict[str, Array]]:
    """A step of pretraining on the recorded draws."""

    def train() -> tuple[Array, dict[str, Array]]:
        first = context.model(BASE).config.base_first
        options = {"first_version_contrast": first, "group_column_in_mean": True, "contrastive_temperature": 0.5}
        model = context.model(WHOLE, **options)
        given = {name: torch.from_numpy(value) for name, value in context.inputs().items()}
        noisy = [given.pop(name) for name in sorted(given) if name.startswith("noisy")]
        (masked,) = (given.pop(name).bool() for name in sorted(given) if name.startswith("mask."))
        batch = prepared(context)(given)
        if not first:
            del batch["batch_ids"]
        hidden = Pass("mask", None if first else noisy[0], masked, predicts_input=not first)
        with torch.no_grad():
            loss, terms = pretraining_step(model, batch, [hidden, Pass("denoise", noisy[-1])])
        return loss.numpy(), {name: value.numpy() for name, value in terms.items()}

    return context.cached("step", train)


def step_term(context: Context) -> Array:
    name = context.name.removeprefix("train.loss.")
    if name == "cce":
        return step(context)[1]["contrast"]
    found = re.fullmatch(rf"({'|'.join(PASSES)})(?:_[\d.]+%)?_({'|'.join(TERMS)})", name)
    assert found is not None, f"{name} is no term of a pass"
    made = f"{PASSES[found[1]]}.{TERMS[found[2]]}"
    # The first pass has no term of the expression.
    return np.zeros(1) if made == "full.expression" else step(context)[1][made]
