"""The stock Trainer trains, evaluates and predicts with every class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from models.examples import Case, every_class
from transformers import Trainer, TrainingArguments

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

trainable = pytest.mark.parametrize(
    "case", [case for case in every_class() if case.gives_loss], ids=lambda case: case.class_name
)


def trainer(model: PreTrainedModel, batch: dict[str, torch.Tensor], folder: Path, **options: Any) -> Trainer:
    dataset = Dataset.from_dict({name: value.numpy() for name, value in batch.items()})
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        **options,
    )
    return Trainer(model, arguments, train_dataset=dataset, eval_dataset=dataset)


@trainable
def test_accumulating_gradients_changes_neither_loss_nor_gradient(case: Case, tmp_path: Path) -> None:
    """A loss that Trainer took for a sum would come out as many times too large as batches are accumulated."""
    if case.class_name in case.example.loss_of_the_batch:
        batch = case.labelled([0] * 4)
    else:
        batch = {name: value[:1].repeat_interleave(4, 0) for name, value in case.labelled([0]).items()}
    logs = []
    for size, steps in ((4, 1), (2, 2)):
        run = trainer(
            case.model(),
            batch,
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            learning_rate=1e-3,
        )
        run.train()
        logs.append(run.state.log_history[0])
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-4)
    assert logs[1]["grad_norm"] == pytest.approx(logs[0]["grad_norm"], rel=1e-3)


@trainable
def test_training_lowers_the_loss_and_predicts_without_embeddings(case: Case, tmp_path: Path) -> None:
    batch = case.labelled()
    run = trainer(
        case.model(),
        batch,
        tmp_path,
        max_steps=15,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=5e-3,
    )
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before
    predicted = run.predict(run.eval_dataset).predictions
    parts = predicted if isinstance(predicted, tuple) else (predicted,)
    hidden = case.config().hidden_size
    for part in parts:
        assert not (isinstance(part, np.ndarray) and part.ndim == 2 and part.shape[1] == hidden), (
            "an embedding among the predictions"
        )


@trainable
def test_trains_with_autocast(case: Case, tmp_path: Path) -> None:
    run = trainer(case.model(), case.labelled(), tmp_path, max_steps=2, per_device_train_batch_size=8, bf16=True)
    run.train()
    assert all(np.isfinite(line["grad_norm"]) for line in run.state.log_history if "grad_norm" in line)
    assert np.isfinite(run.evaluate()["eval_loss"])


CELL_CLASSIFIERS = [case for case in every_class() if case.class_name.endswith("ForSequenceClassification")]


@pytest.mark.parametrize("case", CELL_CLASSIFIERS, ids=lambda case: case.class_name)
@pytest.mark.parametrize(
    ("problem_type", "num_labels"),
    [(None, 1), ("regression", 1), ("regression", 3), ("multi_label_classification", 3)],
)
def test_a_classifier_learns_what_the_problem_type_says(case: Case, problem_type: str | None, num_labels: int) -> None:
    """As any classifier of transformers; a single label without a problem type is a number to predict."""
    batch = case.inputs()
    model = case.model(num_labels=num_labels, problem_type=problem_type)
    n_cells = len(next(iter(batch.values())))
    labels = (torch.arange(n_cells * num_labels).reshape(n_cells, num_labels) % 2).float()
    with torch.no_grad():
        output = model(**batch, labels=labels.squeeze(1))
    compare = (
        torch.nn.functional.binary_cross_entropy_with_logits
        if problem_type == "multi_label_classification"
        else torch.nn.functional.mse_loss
    )
    got = output["losses"]["class"] if output.get("losses") else output["loss"]
    assert got == pytest.approx(float(compare(output["logits"], labels)), rel=1e-5)
