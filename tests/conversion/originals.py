"""A small checkpoint as Geneformer's authors publish theirs, and ways in which files get damaged or do harm."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

if TYPE_CHECKING:
    from pathlib import Path

GENES = tuple(f"ENSG{number:011}" for number in range(60))
TOKENS = {name: number for number, name in enumerate(("<pad>", "<mask>", "<cls>", "<eos>", *GENES))}
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(TOKENS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "relu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.02,
    "attention_probs_dropout_prob": 0.02,
    "pad_token_id": 0,
}


def write_geneformer(folder: Path) -> BertForMaskedLM:
    """Write config.json, model.safetensors and the pickled dictionaries of a V2; returns the model that they hold."""
    dictionaries = folder / "geneformer"
    dictionaries.mkdir(parents=True)
    for name, content in {
        "token_dictionary": TOKENS,
        "gene_median_dictionary": {gene: 1.0 + number for number, gene in enumerate(GENES)},
        "ensembl_mapping_dict": {gene: gene for gene in GENES} | {"GATA1": GENES[3]},
    }.items():
        (dictionaries / f"{name}_gc104M.pkl").write_bytes(pickle.dumps(content))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(**{name: value for name, value in CONFIG.items() if name != "model_type"})
    ).eval()
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    save_file({name: tensor for name, tensor in model.state_dict().items() if name not in tied}, weights_of(folder))
    return model


def weights_of(folder: Path) -> Path:
    """The weights file of the checkpoint."""
    return folder / "model.safetensors"


def change_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors of the checkpoint (dots are written as two underscores); None takes one away."""
    tensors = load_file(weights_of(folder))
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, weights_of(folder))


class RunsACommand:
    """What a harmful pickle holds: loading it with ``pickle`` makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def cut_off(path: Path, *, share: float = 0.7) -> None:
    """Leave the first part of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
