"""Small files as SCimilarity's authors publish them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

GENES = ["CD3D", "MS4A1", "NKG7", "LYZ", "GNLY", "CD79A", "PPBP", "FCER1A", "CST3", "LTB"]
LABELS = ["B cell", "T cell", "monocyte"]
HIDDEN, LATENT = (6, 5), 4

ONTOLOGY = """format-version: 1.2

[Term]
id: CL:0
name: cell

[Term]
id: CL:1
name: lymphocyte
is_a: CL:0

[Term]
id: CL:2
name: B cell
is_a: CL:1 ! lymphocyte

[Term]
id: CL:3
name: T cell
is_a: CL:1

[Term]
id: CL:4
name: plasma cell
is_a: CL:1
relationship: develops_from CL:2

[Term]
id: CL:5
name: gone
is_obsolete: true

[Term]
id: CL:6
name: CD4 T cell
is_a: CL:3

[Typedef]
id: develops_from
name: develops from
"""


def block(before: int, after: int, first: int) -> dict[str, torch.Tensor]:
    """Linear layer, batch norm and PReLU, numbered from ``first``."""
    return {
        f"{first}.weight": torch.randn(after, before),
        f"{first}.bias": torch.randn(after),
        f"{first + 1}.weight": torch.randn(after),
        f"{first + 1}.bias": torch.randn(after),
        f"{first + 1}.running_mean": torch.randn(after),
        f"{first + 1}.running_var": torch.rand(after) + 0.5,
        f"{first + 1}.num_batches_tracked": torch.tensor(3),
        f"{first + 2}.weight": torch.rand(1),
    }


def network(sizes: Sequence[int], *, decoder: bool = False) -> dict[str, torch.Tensor]:
    """Tensors under the authors' names; the decoder's first block has no dropout, which shifts its numbers."""
    torch.manual_seed(len(sizes) + decoder)
    tensors: dict[str, torch.Tensor] = {}
    for number, (before, after) in enumerate(zip(sizes[:-2], sizes[1:-1], strict=True)):
        of_block = block(before, after, 0 if decoder and number == 0 else 1)
        tensors |= {f"network.{number}.{name}": tensor for name, tensor in of_block.items()}
    last = len(sizes) - 2
    return {
        **tensors,
        f"network.{last}.weight": torch.randn(sizes[-1], sizes[-2]),
        f"network.{last}.bias": torch.randn(sizes[-1]),
    }


def write(folder: Path, *, genes: Sequence[str] = GENES, decoder: bool = True, **options: Any) -> Path:
    """A model's folder; the gene list ends without a newline, as the authors write it."""
    folder.mkdir()
    encoder = network([len(GENES), *HIDDEN, LATENT])
    torch.save({"state_dict": encoder}, folder / "encoder.ckpt")
    if decoder:
        torch.save({"state_dict": network([LATENT, *HIDDEN[::-1], len(GENES)], decoder=True)}, folder / "decoder.ckpt")
    sizes = {name: list(tensor.shape) for name, tensor in encoder.items()}
    (folder / "layer_sizes.json").write_text(json.dumps(sizes))
    (folder / "gene_order.tsv").write_text("\n".join(genes))
    (folder / "label_ints.csv").write_text('"",0\n' + "".join(f'{n},"{name}"\n' for n, name in enumerate(LABELS)))
    published = {"dropout": 0.25, "input_dropout": 0.125, "margin": 0.1, "negative_selection": "hardest", "lr": 1e-3}
    (folder / "hyperparameters.json").write_text(json.dumps({**published, **options}))
    return folder


def write_hnswlib(path: Path, vectors: NDArray[np.float32], labels: Sequence[int]) -> Path:
    """An index file of hnswlib: header, and for each element its links, vector and number; without the upper levels."""
    links = 4 + 2 * 4 * 4
    label = links + 4 * vectors.shape[1]
    header = struct.pack("<6Q", 0, len(vectors) + 5, len(vectors), label + 8, label, links)
    header += struct.pack("<iI3QdQ", 1, 0, 4, 8, 4, 0.5, 100)
    elements = (
        bytes(links) + vector.astype("<f4").tobytes() + struct.pack("<Q", number)
        for vector, number in zip(vectors, labels, strict=True)
    )
    path.write_bytes(header + b"".join(elements))
    return path
