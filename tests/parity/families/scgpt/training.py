"""Arrays of scGPT's training: gradients, running statistics, and the model after a step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.nn.classifiers import reverse_gradient

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

from parity.families.scgpt.models import (
    HEADS,
    LABELS,
    RESPONSE,
    cell_embedding,
    configuration,
    for_every_cell,
    of_perturbation,
)


def gradient(context: Context) -> Array:
    """Gradient of the total loss by a tensor, named as in the original, whose ``pert_pad_id`` freezes a row."""
    class_name, options = (RESPONSE, {"prepare": for_every_cell}) if of_perturbation(context.array) else (HEADS, {})
    rename = {"target_values": "labels"} if of_perturbation(context.array) else LABELS
    found = context.training_pass(class_name, load=configuration(context), rename=rename, **options)
    gradients = found.gradients[context.tensor_name(context.name.partition("grad.")[2])]
    if context.name.endswith("pert_encoder.weight"):
        frozen = np.arange(len(gradients)) == context.case.options["pert_pad_id"]
        gradients = np.where(frozen[:, None], 0, gradients)
    return gradients


def adversarial_gradient(context: Context) -> Array:
    """Gradient of the batch classifier's loss by the cell embedding, its sign reversed on the way."""
    cells = torch.from_numpy(cell_embedding(context)).requires_grad_()
    logits = context.model(HEADS).discriminator(reverse_gradient(cells))
    torch.nn.functional.cross_entropy(logits, context.batch()["batch_index"]).backward()
    return cells.grad.numpy()


def mvc_only(output: Any) -> Tensor:
    return output.losses["cell_expression"]


def mvc_gradient(context: Context) -> Array:
    found = context.training_pass(HEADS, mvc_only, load=configuration(context), rename=LABELS)
    return found.gradients[context.tensor_name(context.name.partition("grad.")[2])]


def running_statistics(context: Context) -> Array:
    found = context.training_pass(HEADS, load=configuration(context), rename=LABELS)
    return found.state[context.tensor_name(context.name.removeprefix("train."))]


def trained(context: Context) -> Any:
    """The model after one step of Adam over the training batch, with the gradient's norm cut."""
    golden = context.golden
    step = next(array for array in golden.arrays.values() if "optimizer" in array.options)
    options = step.options

    def take_a_step() -> Any:
        training = type(context)(context._variant, step, context.weights, {})
        model = copy.deepcopy(context.model(HEADS, **configuration(training))).train()
        model(**training.batch(rename=LABELS)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        getattr(torch.optim, options["optimizer"])(model.parameters(), lr=options["lr"], eps=options["eps"]).step()
        return model.eval()

    return context.cached("after one step", take_a_step)


def trained_tensor(context: Context) -> Array:
    name = context.tensor_name(context.name.removeprefix("trained."))
    return trained(context).state_dict()[name].numpy()


def validation_loss(context: Context) -> Array:
    model = trained(context)
    with torch.no_grad():
        return model(**context.batch(rename=LABELS)).losses["expression"].numpy()
