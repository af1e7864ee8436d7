"""The commands of docs/many-machines.md, as they are written there, on two ranks over loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from scfm_hf.models.registry import families
from scfm_hf.tokenization.statistics import rank_tokenizer

pytestmark = pytest.mark.full

PAGE = (Path(__file__).parents[1] / "docs" / "many-machines.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A corpus, a Geneformer of random weights, and the script of the page."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "corpus").mkdir()
    for place in ("cells.h5ad", "corpus/cells.h5ad"):
        shutil.copy(data_dir / "human_pbmc.h5ad", folder / place)
    tokenizer = rank_tokenizer(
        anndata.read_h5ad(folder / "cells.h5ad"), gene_column="ensembl_id", min_cells=1, max_length=64
    )
    spec = families()["geneformer"]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "mask", "cls", "eos")}
    sizes = {**spec.tiny, "vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest}
    torch.manual_seed(0)
    model = spec.load_class("GeneformerForMaskedLM")(spec.load_config_class()(version="V2", **sizes, **special))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    script = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Trainer(" in block)
    (folder / "train.py").write_text(script, encoding="utf-8")
    return folder


def run(command: str, folder: Path) -> None:
    """A command of the page, with the programs of this environment."""
    assert command in PAGE
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PATH": path, "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command.split(), cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["torchrun --nproc-per-node 2 train.py", "accelerate launch --multi_gpu --num_processes 2 train.py"]
)
def test_training(folder: Path, command: str) -> None:
    """72 cells, 16 a step: five steps an epoch; the same command goes on from the last checkpoint."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    run(command, folder)
    assert get_last_checkpoint(str(folder / "run")).endswith("checkpoint-10")
    shutil.rmtree(folder / "run" / "checkpoint-10")
    run(command, folder)
    assert get_last_checkpoint(str(folder / "run")).endswith("checkpoint-10")
    assert (folder / "trained" / "model.safetensors").exists()


def test_embedding(folder: Path) -> None:
    run("torchrun --nproc-per-node 2 -m scfm_hf.cli embed cells.h5ad --model model --output embedded.h5ad", folder)
    cells = anndata.read_h5ad(folder / "embedded.h5ad")
    assert np.isfinite(cells.obsm["X_geneformer"]).all()
    assert not (folder / "embedded.h5ad.parts").exists()
