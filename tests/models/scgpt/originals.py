"""Checkpoints as scGPT's authors write them, small and random, in each of their spellings."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SIZE, FEEDFORWARD, LAYERS, BATCHES, CLASSES = 8, 12, 2, 3, 4
GENES = ("CD3D", "LYZ", "MS4A1", "NKG7", "PPBP", "GNLY")
#: Version -> what its names have in place of those of torch.
SPELLINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "flash": {"in_proj_": "Wqkv."},
    "wrapped": {"in_proj_": "_impl.Wqkv.", r"self_attn\.out_proj": "self_attn._impl.out_proj"},
    "distributed": {"^": "module."},
    "copy": {r"^encoder\.": "gene_encoder.", "^transformer_encoder": "transformer", r"^decoder\.fc": "expr_decoder.fc"},
}
ARGUMENTS = {"embsize": SIZE, "nheads": 2, "d_hid": FEEDFORWARD, "nlayers": LAYERS, "n_bins": 51, "pad_value": -2}


def linear(name: str, n_out: int, n_in: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(n_out, n_in), f"{name}.bias": torch.randn(n_out)}


def norm(name: str, size: int = SIZE) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.rand(size) + 0.5, f"{name}.bias": torch.randn(size)}


def embedding(name: str, n_entries: int) -> dict[str, Tensor]:
    return {f"{name}.embedding.weight": torch.randn(n_entries, SIZE), **norm(f"{name}.enc_norm")}


def perceptron(name: str, n_in: int = SIZE) -> dict[str, Tensor]:
    return {**linear(f"{name}.0", SIZE, n_in), **linear(f"{name}.2", SIZE, SIZE), **linear(f"{name}.4", 1, SIZE)}


def classifier(name: str, n_labels: int, n_layers: int = 3) -> dict[str, Tensor]:
    found = linear(f"{name}.out_layer", n_labels, SIZE)
    for layer in range(n_layers - 1):
        found |= {**linear(f"{name}._decoder.{3 * layer}", SIZE, SIZE), **norm(f"{name}._decoder.{3 * layer + 2}")}
    return found


def body(n_tokens: int = len(GENES) + 3) -> dict[str, Tensor]:
    """Encoder, value encoder and layers, with the attention of torch."""
    torch.manual_seed(0)
    found = {
        **embedding("encoder", n_tokens),
        **linear("value_encoder.linear1", SIZE, 1),
        **linear("value_encoder.linear2", SIZE, SIZE),
        **norm("value_encoder.norm"),
    }
    for number in range(LAYERS):
        layer = f"transformer_encoder.layers.{number}"
        found |= {
            f"{layer}.self_attn.in_proj_weight": torch.randn(3 * SIZE, SIZE),
            f"{layer}.self_attn.in_proj_bias": torch.randn(3 * SIZE),
            **linear(f"{layer}.self_attn.out_proj", SIZE, SIZE),
            **linear(f"{layer}.linear1", FEEDFORWARD, SIZE),
            **linear(f"{layer}.linear2", SIZE, FEEDFORWARD),
            **norm(f"{layer}.norm1"),
            **norm(f"{layer}.norm2"),
        }
    return found


def released() -> dict[str, Tensor]:
    """What a published file holds beside the body."""
    mvc = {**linear("mvc_decoder.gene2query", SIZE, SIZE), "mvc_decoder.W.weight": torch.randn(SIZE, SIZE)}
    return {**body(), **perceptron("decoder.fc"), **mvc, "flag_encoder.weight": torch.randn(2, SIZE)}


def fine_tuned() -> dict[str, Tensor]:
    """Every head of fine-tuning, with batches told to the decoders."""
    found = {
        **body(),
        **embedding("batch_encoder", BATCHES),
        **perceptron("decoder.fc", 2 * SIZE),
        **perceptron("decoder.zero_logit", 2 * SIZE),
        **linear("mvc_decoder.gene2query", SIZE, SIZE),
        "mvc_decoder.W.weight": torch.randn(2 * SIZE, SIZE),
        **linear("mvc_decoder.W_zero_logit", 2 * SIZE, SIZE),
        **classifier("cls_decoder", CLASSES),
        **classifier("grad_reverse_discriminator", BATCHES),
    }
    for domain in range(BATCHES):
        found |= {
            f"dsbn.bns.{domain}.running_mean": torch.randn(SIZE),
            f"dsbn.bns.{domain}.running_var": torch.rand(SIZE) + 0.5,
            f"dsbn.bns.{domain}.num_batches_tracked": torch.tensor(7),
        }
    return found


def perturbation() -> dict[str, Tensor]:
    """The perturbation model."""
    decoders = {**perceptron("decoder.coeff_decoder.fc"), **perceptron("decoder.bias_decoder.fc")}
    return {**body(), "pert_encoder.weight": torch.randn(3, SIZE), **decoders}


def multiomic() -> dict[str, Tensor]:
    """The model with modality tokens."""
    return {**body(), **embedding("mod_encoder", 5), **perceptron("decoder.fc", 2 * SIZE)}


def write(
    folder: Path,
    tensors: dict[str, Tensor],
    *,
    arguments: dict[str, Any] | None = None,
    vocabulary: dict[str, int] | None = None,
    file: str = "args.json",
) -> Path:
    """Write a checkpoint folder."""
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "best_model.pt")
    (folder / file).write_text(json.dumps(ARGUMENTS if arguments is None else arguments))
    tokens = (*GENES, "<pad>", "<cls>", "<eoc>")
    numbers = {token: number for number, token in enumerate(tokens)} if vocabulary is None else vocabulary
    (folder / "vocab.json").write_text(json.dumps(numbers))
    return folder


def respelt(tensors: dict[str, Tensor], spelling: str) -> dict[str, Tensor]:
    """The same tensors by the names that another version writes."""
    found = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in SPELLINGS[spelling].items():
            new = re.sub(pattern, replacement, new)
        found[new] = tensor
    return found
