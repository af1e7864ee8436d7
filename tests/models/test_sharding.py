"""FSDP shards what docs/many-machines.md says that it can, on two ranks over gloo."""

from __future__ import annotations

import tempfile

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from datasets import Dataset
from models.examples import Case, every_class
from ranks import on_ranks
from transformers import Trainer, TrainingArguments

#: Layers to name in fsdp_config, by class; None: those that the model itself names.
SHARDED: dict[str, list[str] | None] = {
    "CellLMForPreTraining": ["PerformerLayer"],
    "GeneCompassForSequenceClassification": ["BertLayer"],
    "GeneformerForSequenceClassification": ["BertLayer"],
    "NicheformerForMaskedLM": ["BertLayer"],
    "ScBertForMaskedLM": ["PerformerLayer"],
    "ScFoundationForSequenceClassification": ["TransformerLayer"],
    "ScGPTForPreTraining": None,
    "ScGPTSpatialForPreTraining": None,
    "ScPrintForPreTraining": None,
    "TGPTForCausalLM": None,
    "UceForPreTraining": None,
}


def shard(case: Case) -> None:
    """Two steps of the stock Trainer; accelerate shards on processors only if it is made to."""
    layers = SHARDED[case.class_name]
    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        use_cpu=True,
        ddp_backend="gloo",
        fsdp=True,
        fsdp_config={"transformer_layer_cls_to_wrap": layers} if layers else None,
        max_steps=2,
        per_device_train_batch_size=4,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    batch = {name: values.numpy() for name, values in case.labelled().items()}
    trainer = Trainer(case.model(), arguments, train_dataset=Dataset.from_dict(batch))
    state = AcceleratorState()
    PartialState._shared_state["distributed_type"] = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    trainer.is_fsdp_enabled = True
    trainer.train()
    assert any(isinstance(parameter, torch.distributed.tensor.DTensor) for parameter in trainer.model.parameters())


def shard_all() -> None:
    for case in every_class():
        if case.class_name in SHARDED:
            try:
                shard(case)
            except Exception as error:  # noqa: BLE001
                raise AssertionError(f"{case.class_name} cannot be sharded: {error}") from error


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
def test_models_are_sharded() -> None:
    assert on_ranks(2, shard_all) == [0, 0]
