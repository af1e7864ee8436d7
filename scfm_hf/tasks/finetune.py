"""finetune: teach a model to label cells, with transformers' own Trainer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scfm_hf.errors import CompatibilityError, ScfmError
from scfm_hf.folders import refuse_taken, whole_folder
from scfm_hf.tasks.loading import LoadedModel, load_for_task

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedModel, Trainer

    from scfm_hf.tokenization import CellTokenizer

Method = Literal["lora", "dora", "ia3", "full"]


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned model.

    Parameters
    ----------
    model, tokenizer
        The model with its adapter, if any, at its best epoch, and the tokenizer.
    metrics
        Accuracy, macro-F1 and loss on the validation cells.
    n_train, n_validation
        Cells to learn from, and cells held out to choose the best epoch.
    output
        Folder of the result: the adapter alone, or the whole model.
    """

    model: PreTrainedModel
    tokenizer: CellTokenizer
    metrics: dict[str, float]
    n_train: int
    n_validation: int
    output: Path

    def __str__(self) -> str:
        return (
            f"Trained on {self.n_train:,} cells. On {self.n_validation:,} others, which chose the best epoch: accuracy "
            f"{self.metrics['accuracy']:.3f}, macro-F1 {self.metrics['macro_f1']:.3f}. Saved in {self.output}."
        )


def finetune(
    adata: AnnData,
    model: Any,
    *,
    labels: str,
    output: str | os.PathLike[str],
    method: Method = "lora",
    tokenizer: CellTokenizer | str | None = None,
    layer: str | None = None,
    epochs: float = 5,
    learning_rate: float | None = None,
    batch_size: int = 16,
    validation_share: float = 0.1,
    class_weighting: bool = False,
    balanced: bool = False,
    freeze_embeddings: bool = False,
    freeze_layers: int = 0,
    patience: int | None = 3,
    resume: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a model to label cells.

    Parameters
    ----------
    adata
        Cells with the values that the model wants and a column of labels; cells without a label are left out.
    model
        A folder or hub id of an encoder, or a loaded ``...ForSequenceClassification``.
    labels
        Column of obs with the classes.
    output
        Folder to write: the adapter (and which base it belongs to), or the whole model; checkpoints of the run lie
        beside it, in ``<output>-checkpoints``, until it ends.
    method
        ``lora``, ``dora``, ``ia3`` train an adapter and the head; ``full`` trains all weights.
    tokenizer, layer, **options
        As in :func:`scfm_hf.embed`.
    epochs, learning_rate, batch_size, seed
        Of the training; the rate is 1e-3 for adapters and 5e-5 for all weights if not given.
    validation_share
        Share of each class that is held out to choose the best epoch.
    class_weighting, balanced
        Weigh the loss by how rare a class is; repeat rare and thin common classes.
    freeze_embeddings, freeze_layers
        What does not train with ``method="full"``.
    patience
        Stop after so many epochs without a better macro-F1; None never stops early.
    resume
        Go on from the last checkpoint of an interrupted run, if there is one.
    overwrite
        Replace an earlier result.
    revision
        Branch, tag or commit of the model on the hub.
    progress
        Show a progress bar.

    Raises
    ------
    KeyError
        If obs has no such column.
    ScfmError
        If there are fewer than two classes, a class with fewer than two cells, or too few cells to hold out one a
        class.
    FileExistsError
        If ``output`` is there, or the checkpoints of an interrupted run are and ``resume`` is not asked for.
    """
    import shutil

    from transformers import set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from scfm_hf.training import balance_classes

    checkpoints = Path(output).with_name(f"{Path(output).name}-checkpoints")
    refuse_taken(output, replaceable=("adapter_config.json", "config.json") if overwrite else ())
    if not resume:
        _refuse_interrupted(checkpoints)
    cells, names = _labelled(adata, labels, validation_share)
    set_seed(seed)  # a fresh head and the adapter draw their first weights
    loaded = _load_classifier(model, names, tokenizer, revision)
    dataset = loaded.tokenizer.to_dataset(cells, labels=labels, layer=layer, **options)
    parts = dataset.train_test_split(validation_share, stratify_by_column="labels", seed=seed)
    train = balance_classes(parts["train"], seed=seed) if balanced else parts["train"]
    adapted = _prepare(loaded.model, method, freeze_embeddings=freeze_embeddings, freeze_layers=freeze_layers)
    arguments = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate or (5e-5 if method == "full" else 1e-3),
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 2 * batch_size,
        "seed": seed,
        "disable_tqdm": not progress,
    }
    trainer = _trainer(
        adapted,
        loaded.tokenizer,
        train,
        parts["test"],
        checkpoints,
        arguments,
        patience,
        class_weighting=class_weighting,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    _save(trainer.model, loaded.tokenizer, Path(output), adapter=method != "full")
    shutil.rmtree(checkpoints, ignore_errors=True)
    sizes = {"n_train": len(parts["train"]), "n_validation": len(parts["test"])}
    return FinetuneResult(trainer.model, loaded.tokenizer, metrics, output=Path(output), **sizes)


def _refuse_interrupted(checkpoints: Path) -> None:
    """Raise FileExistsError for the checkpoints of a run that did not end."""
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        raise FileExistsError(
            f"{checkpoints} holds an interrupted run. Go on with it (resume=True, or --resume), or remove it."
        )


def _load_classifier(model: Any, names: list[str], tokenizer: Any, revision: str | None) -> LoadedModel:
    """The model with a head for the classes; a loaded one must have it already."""
    from transformers import AutoModelForSequenceClassification

    number = {name: place for place, name in enumerate(names)}
    if isinstance(model, (str, os.PathLike)):
        options = {"revision": revision} if revision else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=len(names), id2label=dict(enumerate(names)), label2id=number, **options
        )
    elif model.config.num_labels != len(names):
        raise CompatibilityError(
            f"The model's head has {model.config.num_labels} classes, the cells have {len(names)}. Load it with "
            f"num_labels={len(names)}, or give its folder."
        )
    return load_for_task(model, tokenizer)


def _labelled(adata: AnnData, labels: str, validation_share: float) -> tuple[AnnData, list[str]]:
    """The cells with a label, and the classes in the order of their numbers."""
    if labels not in adata.obs:
        raise KeyError(f"obs has no column {labels!r}. It has {', '.join(map(repr, adata.obs.columns))}.")
    known = adata.obs[labels].notna().to_numpy()
    counts = adata.obs[labels][known].astype("category").cat.remove_unused_categories().value_counts(sort=False)
    if len(counts) < 2:
        raise ScfmError(f"obs[{labels!r}] has {len(counts)} classes; at least two are needed.")
    if (counts < 2).any():
        rare = ", ".join(map(str, counts.index[counts < 2]))
        raise ScfmError(
            f"These classes have fewer than two cells, so that none can be held out: {rare}. Leave them out."
        )
    if validation_share * counts.sum() < len(counts) or (1 - validation_share) * counts.sum() < len(counts):
        raise ScfmError(
            f"{counts.sum()} cells of {len(counts)} classes are too few to hold out a share of {validation_share:g}: "
            "both parts need a cell of each class. Take more cells, or another share."
        )
    return (adata if known.all() else adata[known]), [str(name) for name in counts.index]


def _prepare(model: PreTrainedModel, method: Method, *, freeze_embeddings: bool, freeze_layers: int) -> Any:
    """The model with an adapter, or partly frozen."""
    from scfm_hf.training import freeze, lora_config

    if method == "full":
        freeze(model, embeddings=freeze_embeddings, first_layers=freeze_layers)
        return model
    from peft import get_peft_model

    return get_peft_model(model, lora_config(model, method=method))


def _trainer(
    model: Any,
    tokenizer: CellTokenizer,
    train: Any,
    validation: Any,
    checkpoints: Path,
    arguments: dict[str, Any],
    patience: int | None,
    *,
    class_weighting: bool,
) -> Trainer:
    """The stock Trainer with our collator, metrics and weights."""
    import torch
    from transformers import DataCollatorWithPadding, EarlyStoppingCallback, Trainer, TrainingArguments

    from scfm_hf.training import class_weights, classification_metrics, weighted_loss

    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="macro_f1",
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            **arguments,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=classification_metrics,
        compute_loss_func=weighted_loss(class_weights(train)) if class_weighting else None,
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


def _save(model: Any, tokenizer: CellTokenizer, output: Path, *, adapter: bool) -> None:
    """The adapter with its base's identity, or the whole model; the tokenizer in either case. Whole or not at all."""
    from scfm_hf.hub import save_adapter

    if adapter:
        save_adapter(model, output)
        return
    with whole_folder(output, replace=True) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
