"""How fast cells are embedded, beside the plain way, with the same weights and the same numbers.

Usage: python benchmarks/embed.py [--cells 500] [--width 256] [--rounds 2] [--threads 1]

Real blood cells that ship with the package, a Geneformer of the first release's sizes (6 layers) with random weights
and the released tokenizer. The plain way is what the originals' scripts do: batches in the order of the file, padded to
the longest cell, eager attention. Peak memory is that of a fresh process a way.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder of this file holds names of the standard library: it must not be searched, the repository must.
sys.path[0] = str(Path(__file__).parents[1])

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from importlib.metadata import version  # noqa: E402

import numpy as np  # noqa: E402

WAYS = ("plain loop", "scfm_hf.embed")
BATCH = 16


def main() -> None:
    """Measure both ways in turn and print; with ``--way``, be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        one_way(options)
        return
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, "-P", __file__, "--way", way, "--output", f"{folder}/{way}.npy"]
                command += [f"--{name}={getattr(options, name)}" for name in ("cells", "width", "threads")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures[way].append(json.loads(done.stdout.splitlines()[-1]))
        plain, ours = (np.load(f"{folder}/{way}.npy") for way in WAYS)
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}"
    print(f"{machine}, {options.threads} thread(s)")
    print(f"{options.cells} cells, width {options.width}; largest difference {np.abs(plain - ours).max():.1e}")
    best = {way: min(runs, key=lambda run: run["seconds"]) for way, runs in figures.items()}
    for way, run in best.items():
        print(f"{way:<16}{options.cells / run['seconds']:8.1f} cells/s   {run['peak']:8.0f} MB at most")
    ratio = best[WAYS[0]]["seconds"] / best[WAYS[1]]["seconds"]
    print(f"scfm_hf.embed is {ratio:.2f} times as fast (promise: at least 2.5)")


def one_way(options: argparse.Namespace) -> None:
    """Embed in this process and print seconds of processor time and peak memory."""
    import torch

    from scfm_hf.data.examples import load_example
    from scfm_hf.models.registry import families
    from scfm_hf.models.released import released_tokenizer

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = released_tokenizer("geneformer-v1")
    spec = families()["geneformer"]
    config = spec.load_config_class()(
        hidden_size=options.width,
        num_attention_heads=options.width // 64,
        intermediate_size=2 * options.width,
        vocabulary_digest=tokenizer.vocabulary_digest,
    )
    model = spec.load_class("GeneformerModel")(config).eval()
    cells = load_example()[: options.cells].copy()
    run = plain_loop if options.way == WAYS[0] else with_embed
    start = time.process_time()
    vectors = run(model, tokenizer, cells)
    seconds = time.process_time() - start
    np.save(options.output, vectors)
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def plain_loop(model, tokenizer, cells):  # noqa: ANN001, ANN201
    """Batches in the order of the file, padded to the longest cell of each, eager attention, all states kept."""
    import torch

    model.set_attn_implementation("eager")
    batch = tokenizer(cells)
    vectors = []
    with torch.no_grad():
        for start in range(0, len(batch["input_ids"]), BATCH):
            part = {"input_ids": batch["input_ids"][start : start + BATCH]}
            inputs = tokenizer.pad(part, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states[model.config.embedding_layer]
            mask = inputs["attention_mask"].unsqueeze(-1)
            vectors.append(((states * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(vectors)


def with_embed(model, tokenizer, cells):  # noqa: ANN001, ANN201
    """The library's verb."""
    from scfm_hf.tasks.embed import embed

    return embed(cells, model, tokenizer=tokenizer, progress=False).obsm["X_geneformer"]


if __name__ == "__main__":
    main()
