"""How much memory it takes to embed cells with a UCE whose table of proteins has the released size.

Usage: python benchmarks/uce_memory.py [--cells 500] [--rows 145469] [--token-dim 5120] [--width 256] [--threads 1]
           [--tokens-per-batch 8192]

Real blood cells that ship with the package; a random table of the released shape (3 GB, written to a temporary folder
in pieces), and a model of four layers with random weights, 256 wide in place of 1,280 so that it takes minutes on one
core, in the batches that `embed` makes by default. A fresh process embeds; what it takes at most, beyond Python with
the imported libraries, must stay below the rows of the genes in use + the model + 500 MB.
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

MB = 1e6
#: What may come on top of the table's rows and the model.
ALLOWANCE = 500 * MB
#: Chromosomes of the released table, of all eight species.
N_CHROMOSOMES = 1_895


def main() -> None:
    """Write model and table, embed in a fresh process, print; with ``--folder``, be that process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--rows", type=int, default=145_469)
    parser.add_argument("--token-dim", type=int, default=5120)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens-per-batch", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        embed_cells(options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, options)
        command = [sys.executable, "-P", __file__, "--folder", name]
        command += [f"--cells={options.cells}", f"--threads={options.threads}"]
        command += [f"--tokens-per-batch={options.tokens_per_batch}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured = json.loads(done.stdout.splitlines()[-1])
    allowed = measured["slice"] + measured["model"] + ALLOWANCE
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}")
    print(f"{options.cells} cells, {options.threads} thread(s), width {options.width}, {measured['seconds']:.0f} s")
    table = options.rows * options.token_dim * 4
    print(f"table {table / MB:9,.0f} MB: {options.rows:,} rows x {options.token_dim:,}")
    print(f"slice {measured['slice'] / MB:9,.0f} MB: {measured['genes']:,} rows in use")
    taken = measured["peak"] - measured["before"]
    print(f"model {measured['model'] / MB:9,.0f} MB")
    print(f"peak  {measured['peak'] / MB:9,.0f} MB, {measured['before'] / MB:,.0f} MB of it Python and libraries")
    print(f"taken {taken / MB:9,.0f} MB of {allowed / MB:,.0f} MB allowed")
    if taken > allowed:
        raise SystemExit("More than is allowed.")


def write_model(folder: Path, options: argparse.Namespace) -> None:
    """A model, its tokenizer over real human genes, and the table."""
    import torch

    from scfm_hf.models.uce.configuration_uce import UceConfig
    from scfm_hf.models.uce.modeling_uce import UceModel

    torch.manual_seed(0)
    tokenizer = human_tokenizer(options.rows)
    sizes = {"hidden_size": options.width, "intermediate_size": 4 * options.width, "output_dim": options.width}
    config = UceConfig(
        table_size=2,
        token_dim=options.token_dim,
        num_attention_heads=options.width // 64,
        decoder_hidden_size=options.width,
        **sizes,
    )
    UceModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The table is written piece by piece, never held: a table of two rows stood for it so far.
    config.table_size, config.vocabulary_digest = options.rows, tokenizer.vocabulary_digest
    config.architectures = ["UceModel"]
    config.save_pretrained(folder)
    write_table(folder / "proteins.safetensors", options.rows, options.token_dim)


def human_tokenizer(n_rows: int):  # noqa: ANN201 - the library is imported late
    """A tokenizer of the released size: protein-coding genes of human where they lie, and rows of no known gene."""
    from scfm_hf.genes import GeneVocabulary
    from scfm_hf.genes.tables import gene_table
    from scfm_hf.models.uce.genes_uce import (
        SPECIAL_TOKENS,
        chromosome_tokens,
        distinct_symbols,
        gene_places,
        gene_tokens,
        place_statistics,
    )
    from scfm_hf.tokenization import CellTokenizer

    genes = gene_table("human").query("biotype == 'protein_coding'")
    places = gene_places(
        genes.rename(columns={"symbol": "gene_symbol", "chrom": "chromosome"}).assign(species="human"), where="genes"
    )
    unused = [f"other_{number}" for number in range(N_CHROMOSOMES - len(places.chromosomes))]
    first_chromosome = n_rows - N_CHROMOSOMES
    tokens = list(SPECIAL_TOKENS.values())
    tokens += gene_tokens("human", distinct_symbols(genes["symbol"]), first_chromosome - len(tokens))
    tokens += chromosome_tokens([*places.chromosomes, *unused])
    vocabulary = GeneVocabulary(tokens, special_tokens=SPECIAL_TOKENS, id_kind="symbol", species=("human",))
    return CellTokenizer.from_vocabulary(
        vocabulary,
        scheme="uce",
        statistics=place_statistics(tokens, places, first_chromosome),
        case_sensitive=False,
        max_length=1536,
    )


def write_table(path: Path, n_rows: int, width: int) -> None:
    """Random rows in the safetensors format, some thousand at a time."""
    entry = {"dtype": "F32", "shape": [n_rows, width], "data_offsets": [0, n_rows * width * 4]}
    header = json.dumps({"rows": entry}).encode()
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, n_rows, 4096):
            file.write(random.standard_normal((min(4096, n_rows - start), width), np.float32).tobytes())


def embed_cells(options: argparse.Namespace) -> None:
    """Embed, and print what it took as a line of JSON; bytes and seconds."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from scfm_hf import embed
    from scfm_hf.data.examples import load_example

    torch.set_num_threads(options.threads)
    before = peak()
    cells = load_example("pbmc3k")[: options.cells].copy()
    model = AutoModel.from_pretrained(options.folder)
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    start = time.perf_counter()
    embed(cells, model, tokenizer=tokenizer, tokens_per_batch=options.tokens_per_batch, inplace=True, progress=False)
    seconds, most = time.perf_counter() - start, peak()
    assert np.isfinite(cells.obsm["X_uce"]).all()
    # The sentences are the same each time: every cell has its own stream of random numbers.
    used = np.unique(tokenizer.encode_cells(cells).columns["input_ids"].values)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    rows = len(used) * model.config.token_dim * 4
    print(
        json.dumps(
            {"peak": most, "before": before, "seconds": seconds, "slice": rows, "model": parameters, "genes": len(used)}
        )
    )


def peak() -> int:
    """Most memory of this process so far, bytes."""
    # Linux lets ru_maxrss begin with the memory of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
