"""pretrain on two ranks, as under torchrun: one model, and a run that goes on when a rank has died."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from tasks.pretraining import config, losses, run
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from scfm_hf.training.trainer import CellTrainer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full


def pretraining(folder: Path, batch_size: int) -> dict[str, Any]:
    options = {"training__per_device_train_batch_size": batch_size, "corpus__validation_share": None}
    values = config(folder, **options)
    values["model"]["config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return values


def run_on_a_rank(values: dict[str, Any], *, kill_at: int | None = None, resume: bool = False) -> None:
    if "RANK" in os.environ:
        values["training"]["ddp_backend"] = "gloo"
    run(values, kill_at=kill_at if os.environ.get("RANK") == "1" else None, resume=resume)


def test_two_ranks_make_the_model_of_one_process(tmp_path: Path) -> None:
    """What is hidden in a cell depends on the cell alone; ranks weigh alike however many of their genes are hidden."""
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    assert on_ranks(1, run_on_a_rank, pretraining(one, 12)) == [0]
    assert on_ranks(2, run_on_a_rank, pretraining(two, 6)) == [0, 0]
    curves = [[entry["loss"] for entry in losses(folder) if "loss" in entry] for folder in (one, two)]
    assert len(curves[0]) == len(curves[1]) == 18
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)
    AutoTokenizer.from_pretrained(two / "model")
    AutoModelForMaskedLM.from_pretrained(two / "model")

    assert on_ranks(2, run_on_a_rank, pretraining(killed, 6), kill_at=11)[1] == -signal.SIGKILL
    assert not (killed / "model").exists()
    assert on_ranks(2, run_on_a_rank, pretraining(killed, 6), resume=True) == [0, 0]
    assert losses(killed) == losses(two)


def run_sharded(values: dict[str, Any]) -> None:
    """accelerate shards on processors only if it is made to."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    original = CellTrainer.create_accelerator_and_postprocess

    def create(self: CellTrainer) -> None:
        original(self)
        state = AcceleratorState()
        PartialState._shared_state["distributed_type"] = state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        self.is_fsdp_enabled = True

    CellTrainer.create_accelerator_and_postprocess = create  # in a process of its own
    values["training"] |= {"ddp_backend": "gloo", "fsdp": True}
    result = run(values)
    assert any(isinstance(one, torch.distributed.tensor.DTensor) for one in result.model.parameters())


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
def test_a_sharded_model_is_saved_whole(tmp_path: Path) -> None:
    scgpt = {"family": "scgpt", "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}}
    options = {
        "objectives": {"masked_value": {}},
        "tokenizer": {"scheme": "bin", "min_cells": 8, "max_length": 24},
        "model": scgpt,
        "corpus__validation_share": None,
        "training__per_device_train_batch_size": 12,
    }
    scgpt["config"]["hidden_dropout_prob"] = 0.0
    assert on_ranks(1, run_on_a_rank, config(tmp_path / "one", **options)) == [0]
    options["training__per_device_train_batch_size"] = 6
    assert on_ranks(2, run_sharded, config(tmp_path / "two", **options)) == [0, 0]
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(one[name].shape == two[name].shape for name in one)
    AutoModel.from_pretrained(tmp_path / "two" / "model")
