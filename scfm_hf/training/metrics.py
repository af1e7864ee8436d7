"""Metrics for ``Trainer(compute_metrics=...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import EvalPrediction


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro-F1 of cells, or of genes; labels of -100 are left out.

    Parameters
    ----------
    prediction
        Logits, (n_cells, n_classes) or (n_cells, n_tokens, n_classes), and labels.

    Returns
    -------
    ``accuracy`` and ``macro_f1``; the mean of F1 goes over the classes that occur among the labels or the predictions.
    """
    from sklearn.metrics import accuracy_score, f1_score

    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    wanted, found = np.asarray(prediction.label_ids).ravel(), np.argmax(logits, axis=-1).ravel()
    counted = wanted != -100
    wanted, found = wanted[counted], found[counted]
    return {
        "accuracy": float(accuracy_score(wanted, found)),
        "macro_f1": float(f1_score(wanted, found, average="macro", zero_division=0)),
    }
