"""A checkpoint as scPRINT's authors publish it, small, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

#: Twelve genes of human, then eight of mouse.
GENES = [*(f"ENSG{number:011d}" for number in range(12)), *(f"ENSMUSG{number:011d}" for number in range(8))]
CLASSES = {"sex_ontology_term_id": 2, "cell_type_ontology_term_id": 4}
WIDTH, N_LAYERS, N_BATCHES = 8, 2, 3


def options(**changes: Any) -> dict[str, Any]:
    """``hyper_parameters`` of version 1."""
    known = {
        "genes": GENES,
        "organisms": ["NCBITaxon:9606", "NCBITaxon:10090"],
        "gene_pos_enc": list(range(1, len(GENES) + 1)),
        "classes": CLASSES,
        "labels_hierarchy": {"cell_type_ontology_term_id": {4: [0, 1]}},
        "label_decoders": {"sex_ontology_term_id": {0: "PATO:0000383", 1: "PATO:0000384"}},
        "d_model": WIDTH,
        "nhead": 2,
        "nlayers": N_LAYERS,
        "layers_cls": [6],
        "normalization": "log",
        "expr_encoder_layers": 2,
        "dropout": 0.1,
        "zinb": True,
    }
    return {**known, **changes}


def linear(name: str, n_out: int, n_in: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), **({f"{name}.bias": (n_out,)} if bias else {})}


def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def tensors(*, gene_name: str = "gene_encoder.embedding.weight") -> dict[str, Tensor]:
    """Tensors under the names of version 1; ``gene_name`` is that of the gene vectors."""
    shapes: dict[str, tuple[int, ...]] = {
        gene_name: (len(GENES), WIDTH),
        "pos_encoder.pe": (len(GENES), 1, WIDTH),
        "class_encoder.embedding.weight": (1 + len(CLASSES), WIDTH),
        **norm("transformer.norm", WIDTH),
        **linear("expr_decoder.pred_var_zero", 3, WIDTH),
        **linear("mvc_decoder.gene2query", WIDTH, WIDTH),
        **norm("mvc_decoder.norm", WIDTH),
        **linear("mvc_decoder.pred_var_zero", 3 * WIDTH, WIDTH, bias=False),
        **linear("grad_reverse_discriminator_loss.out_layer", N_BATCHES, WIDTH),
    }
    for name in ("expr_encoder", "depth_encoder"):
        shapes |= linear(f"{name}.encoder.0", WIDTH, 1) | norm(f"{name}.encoder.1", WIDTH)
        shapes |= linear(f"{name}.encoder.4", WIDTH, WIDTH)
    for number, size in ((0, WIDTH), (4, WIDTH)):
        shapes |= linear(f"expr_decoder.fc.{number}", size, size) | norm(f"expr_decoder.fc.{number + 1}", size)
    for number in (0, 3):
        place = f"grad_reverse_discriminator_loss.decoder.{number}"
        shapes |= linear(place, WIDTH, WIDTH) | norm(place.replace(str(number), str(number + 1)), WIDTH)
    for name, n_labels in CLASSES.items():
        shapes |= linear(f"cls_decoders.{name}.decoder.0", 6, WIDTH) | norm(f"cls_decoders.{name}.decoder.1", 6)
        shapes |= linear(f"cls_decoders.{name}.out_layer", n_labels, 6)
    for number in range(N_LAYERS):
        block = f"transformer.blocks.{number}"
        shapes |= linear(f"{block}.mixer.Wqkv", 3 * WIDTH, WIDTH) | linear(f"{block}.mixer.out_proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
        shapes |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
    random = np.random.default_rng(0)
    return {name: torch.from_numpy(random.normal(0, 0.3, shape).astype(np.float32)) for name, shape in shapes.items()}


def write(folder: Path, hyper_parameters: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    """A folder with a Lightning checkpoint."""
    folder.mkdir()
    content = {"state_dict": dict(weights), "hyper_parameters": dict(hyper_parameters), "epoch": 1}
    torch.save(content, folder / "small.ckpt")
    return folder
