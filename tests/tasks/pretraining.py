"""A tiny pretraining run for tests of the task and of the command."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from scfm_hf.tasks.pretrain import PretrainingResult, pretrain
from scfm_hf.training.trainer import CellTrainer

CELLS = Path(__file__).parents[1] / "data" / "human_pbmc.h5ad"
#: What a log says of speed and time, which differs from run to run.
_OF_TIME = ("second", "runtime", "share_waiting", "total_flos")


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Three epochs of seven steps on 56 real cells, beside 16 held out; ``section__key`` changes a key."""
    made: dict[str, Any] = {
        "output": str(folder / "model"),
        "corpus": {
            "files": str(CELLS),
            "gene_column": "ensembl_id",
            "validation_share": 0.2,
            "block_size": 4,
            "min_overlap": 0.1,
        },
        "tokenizer": {"scheme": "rank", "min_cells": 8, "max_length": 24},
        "model": {
            "family": "geneformer",
            "config": {
                "version": "V2",
                "pooling": "cls",
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "hidden_dropout_prob": 0.1,
            },
        },
        "objectives": {"masked_gene": {"share": 0.15}},
        "training": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "save_steps": 4,
            "disable_tqdm": True,
            "use_cpu": True,
        },
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key and value is None:
            made[section].pop(key, None)
        elif key:
            made[section][key] = value
        elif value is None:
            del made[section]
        else:
            made[section] = value
    return made


def run(values: dict[str, Any], *, kill_at: int | None = None, resume: bool = False) -> PretrainingResult:
    """Pretrain; kill the process at the beginning of a step."""
    if kill_at is not None:
        original = CellTrainer.training_step

        def training_step(self: CellTrainer, *args: Any, **options: Any) -> Any:
            if self.state.global_step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *args, **options)

        CellTrainer.training_step = training_step  # in a process of its own
    return pretrain(values, resume=resume)


def losses(folder: Path) -> list[dict[str, float]]:
    """The log of a finished run, without what depends on the time."""
    log = json.loads((folder / "model" / "training_log.json").read_text())
    kept = [
        {name: value for name, value in entry.items() if not any(word in name for word in _OF_TIME)} for entry in log
    ]
    return [entry for entry in kept if "loss" in entry or "eval_loss" in entry]
