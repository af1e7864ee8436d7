"""Classes of unequal size: weights for the loss, or a balanced training set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets import Dataset
    from numpy.typing import NDArray


def class_weights(dataset: Dataset, *, labels: str = "labels", power: float = 1.0) -> Tensor:
    """Weights that are the greater the rarer a class is, with mean 1 over the cells.

    Parameters
    ----------
    dataset
        With a ClassLabel column, or one of class numbers.
    labels
        Its name.
    power
        1 weighs all classes alike in sum; 0.5 half-way (square root); 0 not at all.

    Returns
    -------
    float32, (n_classes,); 0 for a class without a cell.
    """
    counts = _counts(dataset, labels)
    weights = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0) ** power * (counts > 0)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def weighted_loss(weights: Tensor) -> Callable[..., Tensor]:
    """Cross entropy with class weights, for ``Trainer(compute_loss_func=...)``."""

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].flatten(0, -2).float()
        return nn.functional.cross_entropy(logits, labels.flatten(), weight=weights.to(logits.device))

    return compute


def balance_classes(dataset: Dataset, *, labels: str = "labels", seed: int = 0, size: int | None = None) -> Dataset:
    """A training set in which every class comes equally often: rare classes are repeated, common ones thinned.

    Parameters
    ----------
    dataset
        With a ClassLabel column, or one of class numbers.
    labels
        Its name.
    seed
        Of the draw.
    size
        Lines of the result; None: as many as there are.

    Returns
    -------
    A view of the data set; a cell of a class with enough cells comes at most once.
    """
    numbers = np.asarray(dataset[labels])
    present = np.unique(numbers)
    share = -(-(size or len(numbers)) // len(present))
    generator = np.random.default_rng(seed)
    chosen = [_draw(np.flatnonzero(numbers == number), share, generator) for number in present]
    return dataset.select(generator.permutation(np.concatenate(chosen))[: size or len(numbers)])


def _draw(rows: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Each row as often as whole turns allow, the rest without repetition."""
    whole, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, whole), generator.choice(rows, rest, replace=False)])


def _counts(dataset: Dataset, labels: str) -> NDArray[np.int64]:
    feature = dataset.features[labels]
    return np.bincount(np.asarray(dataset[labels]), minlength=getattr(feature, "num_classes", 0))
