"""The stock Trainer lowers the loss of every objective on real cells that it does not train on, and reports each."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from datasets import Dataset
from training.objectives import planted
from transformers import AutoModel, Trainer, TrainingArguments

from scfm_hf.data.examples import load_example
from scfm_hf.training.objectives import load_objectives, make_objectives, objective_names
from scfm_hf.training.objectives.metadata_tokens import add_metadata_tokens

if TYPE_CHECKING:
    from pathlib import Path

N_GENES, N_CELLS = 64, 480
#: Encoder of the objectives that need tokens; the others get a profile's encoder, which is the quickest.
FAMILIES = {
    "masked_gene": "geneformer",
    "metadata_tokens": "geneformer",
    "next_gene": "tgpt",
    "masked_value": "scgpt",
    "generative": "scgpt",
    "denoising": "scgpt",
}
TOKENIZERS = {"scgpt": planted.tokenizer_of_values, "scimilarity": planted.tokenizer_of_profiles}
#: Options of the objectives that have some to choose. Nothing is gained here by fooling the classifier of batches.
OPTIONS: dict[str, dict[str, Any]] = {
    "adversarial_batch": {"column": "cell_type", "strength": 0.0},
    "metadata_tokens": {"columns": ["cell_type"], "metadata_share": 0.5},
    "multi_task": {"columns": ["cell_type"]},
    "triplets": {"column": "cell_type", "margin": 0.5},
    "read_depth": {"min_depth": 50, "zero_share": 0.3},
}


@cache
def cells() -> tuple[Dataset, Dataset, list[str]]:
    """Real cells over the genes that are detected most, for training and for validation, and their classes."""
    adata = load_example("pbmc3k")[:N_CELLS]
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    # Not the genes that every cell has.
    genes = np.sort(np.argsort(-np.where(detected > 0.8, 0, detected), kind="stable")[:N_GENES])
    counts = adata.X[:, genes].toarray()
    rows = [
        {"cell_id": name, "gene_ids": np.flatnonzero(row), "counts": row[row > 0], "cell_type": str(kind)}
        for name, row, kind in zip(adata.obs_names, counts, adata.obs["cell_type"], strict=True)
    ]
    n_train = 3 * len(rows) // 4
    classes = sorted({row["cell_type"] for row in rows})
    return Dataset.from_list(rows[:n_train]), Dataset.from_list(rows[n_train:]), classes


def trainer(name: str, folder: Path, **changes: Any) -> tuple[Trainer, Any]:
    training, validation, classes = cells()
    family = FAMILIES.get(name, "scimilarity")
    tokenizer = TOKENIZERS.get(family, planted.tokenizer_of_ranks)(N_GENES)
    encoder = planted.encoder_of(family, n_genes=N_GENES, generative=True) if family == "scgpt" else None
    encoder = encoder or planted.encoder_of(family, n_genes=N_GENES)
    columns = {"cell_type": classes}
    if name == "metadata_tokens":
        add_metadata_tokens(tokenizer, encoder, columns)
    objectives = make_objectives({name: OPTIONS.get(name, {})}, tokenizer=tokenizer, columns=columns)
    arguments = {
        "max_steps": 30,
        "per_device_train_batch_size": 24,
        "per_device_eval_batch_size": 60,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        **changes,
    }
    made = Trainer(
        objectives.model(encoder),
        TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **arguments),
        train_dataset=training,
        eval_dataset=validation,
        data_collator=objectives.collator,
        compute_metrics=objectives.compute_metrics,
        callbacks=[objectives.callback],
    )
    return made, objectives


@pytest.mark.parametrize("name", objective_names())
def test_the_stock_trainer_lowers_the_validation_loss(name: str, tmp_path: Path) -> None:
    run, objectives = trainer(name, tmp_path)
    before = run.evaluate()
    run.train()
    objectives.collator.set_epoch(0)
    after = run.evaluate()
    assert after["eval_loss"] < 0.98 * before["eval_loss"]
    assert after[f"eval_{name}_loss"] == pytest.approx(after["eval_loss"], rel=0.05)


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    """Across an epoch's end, with workers: nothing that is drawn is kept in the process."""
    settings = {"max_steps": 24, "logging_steps": 1, "save_strategy": "steps", "save_steps": 9}
    whole, _ = trainer("masked_value", tmp_path / "whole", **settings)
    whole.train()
    stopped, _ = trainer("masked_value", tmp_path / "stopped", **settings)
    stopped.args.max_steps = 9
    stopped.train()
    again, _ = trainer("masked_value", tmp_path / "stopped", dataloader_num_workers=2, **settings)
    again.train(resume_from_checkpoint=True)
    losses = [
        [entry["loss"] for entry in run.state.log_history if "loss" in entry and entry["step"] > 9]
        for run in (whole, again)
    ]
    assert losses[1] == losses[0]
    assert len(losses[0]) == 15


def test_a_checkpoint_of_the_trainer_is_an_encoder_and_goes_on(tmp_path: Path) -> None:
    run, objectives = trainer("bottleneck", tmp_path, max_steps=3, save_strategy="steps", save_steps=3)
    run.train()
    folder = tmp_path / "checkpoint-3"
    encoder = AutoModel.from_pretrained(folder)
    assert type(encoder).__name__ == "SCimilarityModel"
    loaded = load_objectives(folder).from_pretrained(folder).eval()
    state = run.model.state_dict()
    assert all((loaded.state_dict()[name] == value).all() for name, value in state.items())
    assert all((encoder.state_dict()[name] == value).all() for name, value in run.model.encoder.state_dict().items())
    assert load_objectives(folder).describe() == objectives.describe()
