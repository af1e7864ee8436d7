"""How fast each family embeds real cells, beside a plain loop over single cells with the same weights.

Usage: python benchmarks/families.py [--cells 500] [--width 256] [--layers 4] [--families scgpt uce]

Blood cells that ship with the package, over the hundred-odd genes that the tests' vocabularies have, so that cells are
short; models of a usual width with random weights, made as the tests make them (tests/models/examples.py). The loop
gives the model one encoded cell at a time. One thread; processor time; both ways in one run, and their largest
difference. At the end the attention of the Performers beside quadratic attention, over as many genes as full lists
have.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[1]
# The folder of this file holds names of the standard library: it must not be searched, the repository and tests must.
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from models import examples  # noqa: E402

from scfm_hf.models.registry import families  # noqa: E402
from scfm_hf.nn.performer import PerformerAttention  # noqa: E402
from scfm_hf.tasks.embed import embed_encoded  # noqa: E402
from scfm_hf.tasks.loading import LoadedModel  # noqa: E402

LISTS = (1_000, 4_000, 16_000)


def main() -> None:
    """Measure each family and print a line of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--families", nargs="*", default=sorted(families()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples.CELLS = ROOT / "scfm_hf" / "data" / "examples" / "pbmc3k.h5ad"
    examples.ROWS = slice(0, options.cells)
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, one thread"
    print(f"{machine}; {options.cells} cells, width {options.width}, {options.layers} layers\n")
    print("| family | genes a cell | embed, cells/s | loop over single cells | times | largest difference |")
    print("|---|---|---|---|---|---|")
    for name in options.families:
        print(line(name, options.width, options.layers), flush=True)
    print("\n| genes | Performer attention, ms | quadratic attention, ms | times |\n|---|---|---|---|")
    for n_genes in LISTS:
        print(attention_line(n_genes), flush=True)


def larger(tiny: dict[str, object], width: int, layers: int) -> dict[str, object]:
    """The configuration of the tests with a usual width; fields that a family does not have stay out."""
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }
    return {**tiny, **{field: size for field, size in sizes.items() if field in tiny}}


def line(name: str, width: int, layers: int) -> str:
    """Both ways for one family."""
    spec = families()[name]
    example = type(examples.example_of(name))(dataclasses.replace(spec, tiny=larger(dict(spec.tiny), width, layers)))
    case = examples.Case(example, spec.classes_of("AutoModel")[0])
    model, tokenizer = case.model(), example.tokenizer
    loaded = LoadedModel(model, tokenizer, spec, name, None)
    encoded = tokenizer.encode_cells(example.cells, min_overlap=0.0, empty_cells="keep")
    seconds, vectors = {}, {}
    for way, batch_size in (("embed", None), ("loop", 1)):
        embed_encoded(encoded, loaded, batch_size=batch_size or 8) if way == "embed" else None  # warm up
        start = time.process_time()
        vectors[way] = embed_encoded(encoded, loaded, batch_size=batch_size)
        seconds[way] = time.process_time() - start
    known = np.isfinite(vectors["loop"]).all(1)
    difference = np.abs(vectors["embed"] - vectors["loop"])[known].max()
    speeds = {way: len(encoded) / spent for way, spent in seconds.items()}
    times = seconds["loop"] / seconds["embed"]
    length = float(np.mean(encoded.lengths))
    return (
        f"| {name} | {length:.0f} | {speeds['embed']:,.0f} | {speeds['loop']:,.0f} | {times:.1f} | {difference:.1e} |"
    )


def attention_line(n_genes: int, width: int = 512, heads: int = 8) -> str:
    """Attention of one layer over a gene list, by random features and by all pairs."""
    torch.manual_seed(0)
    attention = PerformerAttention(width, heads, width // heads).eval()
    states = torch.randn(1, n_genes, width)

    def quadratic() -> torch.Tensor:
        parts = [project(states).unflatten(-1, (heads, -1)).transpose(1, 2) for project in projections]
        return attention.out_proj(torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))

    projections = (attention.query, attention.key, attention.value)
    spent = []
    for way in (lambda: attention(states), quadratic):
        with torch.inference_mode():
            way()
            start = time.process_time()
            way()
            spent.append(1000 * (time.process_time() - start))
    return f"| {n_genes:,} | {spent[0]:,.0f} | {spent[1]:,.0f} | {spent[1] / spent[0]:.1f} |"


if __name__ == "__main__":
    main()
