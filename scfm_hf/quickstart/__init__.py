"""The main jobs from end to end on real cells: ``python -m scfm_hf.quickstart``.

First the model that ships labels blood cells that it never saw, beside plain baselines. Then a model of one's own:
counts -> tokens -> a small Geneformer, pretrained -> LoRA with the stock Trainer -> saved, reloaded -> annotation of
held-out cells. Interrupt it at any time: the next start goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scfm_hf.quickstart.cells import LABELS, split_cells
from scfm_hf.quickstart.figures import Figures, machine, report, resample, scores
from scfm_hf.quickstart.own_model import annotate_and_draw, fine_tune, pretrain
from scfm_hf.quickstart.shipped_model import label_by_shipped_model


def main(arguments: list[str] | None = None) -> Figures:
    """Run the quickstart; the options say how long and how large."""
    options = _parser().parse_args(arguments)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = split_cells(options.cells, options.seed)
    print(f"{train.n_obs} cells to learn from, {test.n_obs} held out, {train.n_vars} genes; {machine()}")
    figures = label_by_shipped_model(train, test, seed=options.seed)

    base = pretrain(train, folder / "base", epochs=options.pretraining_epochs, seed=options.seed, width=options.width)
    adapter = fine_tune(train, base, folder / "adapter", epochs=options.epochs, seed=options.seed)
    annotated = annotate_and_draw(test, base, adapter, folder)
    told = annotated.obs[f"{LABELS}_predicted"].astype(str).to_numpy()
    figures["all labelled cells"]["own small Geneformer, LoRA"] = scores(
        test.obs[LABELS], [told], resample(test.n_obs, options.seed)
    )
    report(figures, folder)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="quickstart-results", help="folder of the results")
    parser.add_argument("--cells", type=int, default=None, help="use only so many cells (for a quick look)")
    parser.add_argument("--pretraining-epochs", type=float, default=8)
    parser.add_argument("--epochs", type=float, default=7, help="epochs of fine-tuning")
    parser.add_argument("--width", type=int, default=64, help="hidden size of the model of one's own")
    parser.add_argument("--seed", type=int, default=0)
    return parser
