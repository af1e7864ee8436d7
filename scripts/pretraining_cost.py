"""What pretraining costs, from tokens a second that were measured: the tables of docs/pretraining-at-scale.md.

    python scripts/pretraining_cost.py --measured 4015 --of tiny --on "one core" [--cells 30e6] [--epochs 1]
    python scripts/pretraining_cost.py --log my-model/training_log.json --of small --on "8 x A100"

The log of a run (or ``--measured``) says how many tokens a second one size made on a machine. The work of a token is
counted as 6 operations a weight that it meets (twice forward, four times backward) and 12 x layers x width x length
for attention; other sizes are taken to reach the same operations a second. This is optimistic for a model that is much
smaller than the one measured, and pessimistic for a larger one, whose matrices keep a machine busier. ``--peak`` and
``--utilisation`` estimate a machine that nothing was measured on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """A Geneformer-like encoder: width, layers, longest cell, genes, and the factor of its inner layers."""

    width: int
    layers: int
    length: int
    vocabulary: int = 20_000
    inner: int = 2

    @property
    def parameters(self) -> int:
        """Weights, the embedding (tied to the head) included."""
        layer = self.width * self.width * (4 + 2 * self.inner)
        return self.layers * layer + self.width * (self.vocabulary + self.length + self.width)

    @property
    def operations(self) -> float:
        """Operations to train on one token."""
        met = self.parameters - self.width * self.length
        return 6 * met + 12 * self.layers * self.width * self.length


#: Those of benchmarks/pretrain.py first, whose vocabulary is that of the example, then those to train.
SIZES = {
    "tiny": Size(64, 3, 128, 4_600),
    "long": Size(128, 4, 2048, 4_600),
    "6 layers, 256 wide": Size(256, 6, 2048),
    "12 layers, 512 wide": Size(512, 12, 2048),
    "18 layers, 1152 wide": Size(1152, 18, 4096, inner=4),
}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=float, help="tokens a second")
    parser.add_argument("--log", type=Path, help="training_log.json of a run, in place of --measured")
    parser.add_argument("--of", choices=SIZES, default="tiny", help="the size that was measured")
    parser.add_argument("--on", default="the machine measured")
    parser.add_argument("--peak", type=float, help="operations a second of a machine that was not measured")
    parser.add_argument("--utilisation", type=float, default=0.3, help="part of the peak that training reaches")
    parser.add_argument("--cells", type=float, default=30e6)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--tokens", type=float, default=1_500, help="of a mean cell, at most the longest of the model")
    parser.add_argument("--price", type=float, help="of an hour")
    options = parser.parse_args()
    if options.peak:
        rate, how = options.peak * options.utilisation, f"{options.utilisation:.0%} of {options.peak:.3g} op/s assumed"
    else:
        measured = options.measured or tokens_per_second(options.log)
        rate = measured * SIZES[options.of].operations
        how = f"{measured:,.0f} tokens/s measured of {options.of!r}: {rate:.2g} op/s"
    print(
        f"{options.on}: {how}; {options.cells:,.0f} cells x {options.epochs:g} epochs x {options.tokens:,.0f} tokens\n"
    )
    head = ["model", "weights", "tokens/s", "hours", *(["price"] if options.price else [])]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, size in list(SIZES.items())[2:]:
        speed = rate / size.operations
        hours = options.cells * options.epochs * min(options.tokens, size.length) / speed / 3600
        row = [name, f"{size.parameters / 1e6:,.0f} M", f"{speed:,.0f}", f"{hours:,.0f}"]
        print(f"| {' | '.join([*row, *([f'{hours * options.price:,.0f}'] if options.price else [])])} |")


def tokens_per_second(log: Path | None) -> float:
    """Median of what a run logged, without its first entry, in which memory is taken."""
    if log is None:
        raise SystemExit("Give --measured, --log or --peak.")
    logged = [
        entry["tokens_per_second"] for entry in json.loads(log.read_text("utf-8")) if "tokens_per_second" in entry
    ]
    if not logged:
        raise SystemExit(f"{log} has no tokens_per_second: it is not the log of a CellTrainer.")
    return statistics.median(logged[1:] or logged)


if __name__ == "__main__":
    main()
