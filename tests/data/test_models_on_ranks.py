"""Models of the library under DDP and FSDP, whole and with LoRA, as the stock Trainer trains them on two ranks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from ranks import on_ranks
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

import scfm_hf
from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.trainer_position import StreamPosition
from scfm_hf.models.registry import families
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

pytestmark = pytest.mark.full

Way = Literal["ddp", "fsdp", "lora"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, corpus_cells: anndata.AnnData) -> Path:
    """A Geneformer of random weights for the cells of the corpus, with its tokenizer."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = rank_tokenizer(corpus_cells, gene_column="ensembl_id", min_cells=1, max_length=64)
    spec = families()["geneformer"]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "mask", "cls", "eos")}
    sizes = {**spec.tiny, "vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest}
    torch.manual_seed(0)
    sizes |= {"num_labels": 9, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = spec.load_config_class()(version="V2", **sizes, **special)
    spec.load_class("GeneformerForSequenceClassification")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Losses(TrainerCallback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(f"{state.global_step} {logs['loss']}\n")


def train(start: Path, corpus: Path, folder: Path, *, way: Way, batch_size: int, steps: int = 12) -> None:
    """Six steps an epoch; a checkpoint after the fourth of each."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model: Any = AutoModelForSequenceClassification.from_pretrained(start)
    if way == "lora":
        from peft import get_peft_model

        model = get_peft_model(model, scfm_hf.lora_config(model))
    stream = load_corpus(
        corpus,
        tokenizer=tokenizer,
        labels="cell_type",
        block_size=4,
        window_size=24,
        batch_size=batch_size,
        min_overlap=0,
    )
    arguments = TrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        logging_steps=1,
        save_steps=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        fsdp=True if way == "fsdp" and "RANK" in os.environ else None,
        # Without it accelerate shards BertEmbeddings, and fails where it then shards the embedding in it once more.
        fsdp_config={"transformer_layer_cls_to_wrap": ["BertLayer"]} if way == "fsdp" else None,
        accelerator_config={"dispatch_batches": False},
    )
    callbacks = [StreamPosition(), Losses(folder / "losses")]
    trainer = Trainer(
        model, arguments, train_dataset=stream, data_collator=DataCollatorWithPadding(tokenizer), callbacks=callbacks
    )
    if arguments.fsdp:
        shard_on_processors(trainer)
    last = get_last_checkpoint(str(folder / "run")) if (folder / "run").exists() else None
    trainer.train(resume_from_checkpoint=last)
    sharded = any(isinstance(parameter, torch.distributed.tensor.DTensor) for parameter in trainer.model.parameters())
    assert sharded == bool(arguments.fsdp)
    trainer.save_model(str(folder / "model"))


def shard_on_processors(trainer: Trainer) -> None:
    """Have accelerate shard as on accelerators: asked for FSDP on processors it says nothing, and takes DDP."""
    state = AcceleratorState()
    PartialState._shared_state["distributed_type"] = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    trainer.is_fsdp_enabled = True


def losses(folder: Path) -> list[float]:
    return [float(line.split()[1]) for line in (folder / "losses").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize("way", ["ddp", "fsdp", "lora"])
def test_two_ranks_train_as_one_process_does(start: Path, corpus_folder: Path, tmp_path: Path, way: Way) -> None:
    """And what they save opens on one process; a run that was stopped goes on."""
    one, two, resumed = (tmp_path / name for name in ("one", "two", "resumed"))
    for folder in (one, two, resumed):
        folder.mkdir()
    assert on_ranks(1, train, start, corpus_folder, one, way=way, batch_size=12) == [0]
    assert on_ranks(2, train, start, corpus_folder, two, way=way, batch_size=6) == [0, 0]
    assert len(losses(one)) == 12
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    expected, found = weights(one / "model"), weights(two / "model")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, equal_nan=True, msg=name)

    assert on_ranks(2, train, start, corpus_folder, resumed, way=way, batch_size=6, steps=8) == [0, 0]
    (resumed / "losses").unlink()
    assert on_ranks(2, train, start, corpus_folder, resumed, way=way, batch_size=6) == [0, 0]
    np.testing.assert_allclose(losses(resumed), losses(two)[8:], rtol=1e-5)

    if way != "lora":
        model = AutoModelForSequenceClassification.from_pretrained(two / "run" / "checkpoint-12")
        for name, tensor in model.state_dict().items():
            if name in found:
                torch.testing.assert_close(tensor, found[name], equal_nan=True)
