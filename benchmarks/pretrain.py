"""How busy a small pretraining on real cells keeps the model, and how fast it is.

    python -P benchmarks/pretrain.py [--steps 60] [--workers 0] [--sizes small middle] [--objectives masked_gene]

Tokenising, streaming and training as ``scfm pretrain`` does them, on the blood cells that ship with the package:
a Geneformer from scratch, one thread. Each line is one run; ``waiting`` is the share of the steps' time in which the
loop waited for its batch, ``padding`` the share of the tokens in the batches that are none. A run with buckets has
batches of cells of like length. ``tokens per CPU second`` is of the training steps alone, which other work on the
machine hardly changes. The first steps, in which memory is taken and the first window of cells is read, count.
"""

# ruff: noqa: E402 - one thread, before NumPy is imported
from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[0] = str(Path(__file__).parents[1])

import torch

from scfm_hf.tasks.pretrain import pretrain

#: Name -> hidden size, layers, longest cell, cells a batch.
SIZES = {
    "tiny": (64, 3, 128, 32),
    "small": (128, 4, 256, 32),
    "long": (128, 4, 2048, 8),
    "middle": (256, 6, 512, 16),
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="*", default=[0])
    parser.add_argument("--sizes", nargs="*", default=["tiny", "small"], choices=sorted(SIZES))
    parser.add_argument("--objectives", nargs="*", default=["masked_gene"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    print(f"{platform.processor() or platform.machine()}, one thread; {libraries}; {options.steps} steps\n")
    head = "model|parameters|objective|workers|buckets|cells/s|tokens/s|tokens per CPU second|waiting|padding|loss"
    print(f"| {head.replace('|', ' | ')} |\n{'|---' * 11}|")
    with as_file(files("scfm_hf.data.examples") / "pbmc3k.h5ad") as cells, tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for objective in options.objectives:
                for workers in options.workers:
                    for buckets in (0, 8):
                        print(measured(cells, Path(folder), size, objective, workers, buckets, options.steps))


def measured(cells: Path, folder: Path, size: str, objective: str, workers: int, buckets: int, steps: int) -> str:
    """One run, as a line of the table."""
    width, layers, longest, batch = SIZES[size]
    config: dict[str, Any] = {
        "output": str(folder / f"{time.time_ns()}"),
        "corpus": {"files": str(cells), "gene_column": "ensembl_id", "min_overlap": 0.1, "bucket_batches": buckets},
        "tokenizer": {"scheme": "rank", "min_cells": 60, "max_length": longest},
        "model": {
            "family": "geneformer",
            "config": {
                "version": "V2",
                "pooling": "cls",
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": 4,
                "intermediate_size": 2 * width,
            },
        },
        "objectives": {objective: {}},
        "training": {
            "max_steps": steps,
            "per_device_train_batch_size": batch,
            "dataloader_num_workers": workers,
            "logging_steps": max(1, steps // 4),
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }
    counted = Counted()
    with counted:
        result = pretrain(config)
    speed = counted.trainer.throughput.total.figures()
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    row = [
        f"{size}: {width} wide, {layers} layers, {longest} tokens",
        f"{result.model.num_parameters() / 1e6:.1f} M",
        objective,
        str(workers),
        str(buckets) if buckets else "none",
        f"{speed['cells_per_second']:,.0f}",
        f"{speed['tokens_per_second']:,.0f}",
        f"{(counted.all - counted.padded) / counted.seconds:,.0f}",
        f"{speed['share_waiting_for_data']:.1%}",
        f"{counted.share:.1%}",
        f"{losses[0]:.2f} to {losses[-1]:.2f}",
    ]
    return f"| {' | '.join(row)} |"


class Counted:
    """Counts the tokens, and the processor time, of the batches that a trainer trains on, in a ``with`` block."""

    def __enter__(self) -> None:
        from scfm_hf.training.trainer import CellTrainer

        self.padded = self.all = 0
        self.seconds = 0.0
        self.trainer: Any = None
        self._original = original = CellTrainer.training_step
        meter = self

        def training_step(trainer: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            meter.trainer = trainer
            for given in inputs["inputs"].values():
                meter.padded += int((given["attention_mask"] == 0).sum())
                meter.all += given["attention_mask"].numel()
            start = time.process_time()
            loss = original(trainer, model, inputs, *args, **options)
            meter.seconds += time.process_time() - start
            return loss

        CellTrainer.training_step = training_step

    def __exit__(self, *_: Any) -> None:
        from scfm_hf.training.trainer import CellTrainer

        CellTrainer.training_step = self._original

    @property
    def share(self) -> float:
        """Share of the tokens that are counted."""
        return self.padded / max(1, self.all)


if __name__ == "__main__":
    main()
