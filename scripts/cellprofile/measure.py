"""Train with a fold left out, measure beside the baselines, and keep the model if asked.

Usage: python scripts/cellprofile/measure.py --fold A [--seeds 0 1 2] [--shared ../shared]
           [--json build/cellprofile.jsonl] [--save scfm_hf/models/cellprofile/shipped/cellprofile-human]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from corpus import SETS, Study, read_corpus
from evaluate import (
    UNIT_SCALE,
    Embedding,
    corpus_svd,
    few_labels,
    highly_variable_pca,
    joined,
    log_counts,
    of_model,
    transfer,
    transfer_by_regression,
)
from folds import FOLDS, Fold
from train import STEPS, parts_of, prepare, train

from scfm_hf import CellTokenizer, GeneVocabulary
from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gene_choice import Choice

    from scfm_hf.models.cellprofile.modeling_cellprofile import CellProfileModel


def part(corpus: dict[str, Study], name: str) -> Study:
    """A set, or the part of it that is named after ``@``."""
    whole, _, wanted = name.partition("@")
    study = corpus[whole]
    return study.take(np.char.find(study.parts, wanted) >= 0) if wanted else study


def training_studies(corpus: dict[str, Study], left_out: tuple[str, ...]) -> list[Study]:
    """All studies of the sets but those left out."""
    parts = [name.partition("@") for name in left_out if "@" in name]
    kept = []
    for name in SETS:
        if name in left_out:
            continue
        gone = [wanted for whole, _, wanted in parts if whole == name]
        kept += [one for one in parts_of(corpus[name]) if not any(wanted in one.parts[0] for wanted in gone)]
    return kept


def save(model: CellProfileModel, genes: list[str], choice: Choice, folder: Path) -> None:
    """Save encoder and tokenizer; weights in half precision, which are read back into single precision."""
    vocabulary = GeneVocabulary(
        ["<pad>", *genes], special_tokens={"pad": "<pad>"}, id_kind="ensembl_id", species=("human",)
    )
    deviation = np.concatenate([[np.nan], choice.deviation])
    tokenizer = CellTokenizer.from_vocabulary(vocabulary, scheme="cellprofile", statistics={"deviation": deviation})
    tokenizer.save_pretrained(folder)
    halved = copy.deepcopy(model).half()
    halved.config.vocabulary_digest = tokenizer.vocabulary_digest
    halved.save_pretrained(folder)
    halved.config.dtype = "float32"
    halved.config.save_pretrained(folder)


def main() -> None:
    """Train with each seed, measure beside the baselines, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", choices=sorted(FOLDS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--json", type=Path, default=Path("build/cellprofile.jsonl"))
    parser.add_argument(
        "--save", type=Path, help="keep encoder and tokenizer of the first seed here, in half precision"
    )
    options = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "scikit-learn", "numpy"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {libraries}")
    genes, corpus = read_corpus(options.shared / "data")
    fold = FOLDS[options.fold]
    studies = training_studies(corpus, fold.left_out)
    config = CellProfileConfig()
    start = time.process_time()
    choice, maps = prepare(studies, config)
    print(f"genes and linear maps: {time.process_time() - start:.0f} s of processor time", flush=True)
    both = kept(highly_variable_pca(see_query=True))
    svd = corpus_svd(studies, choice)
    log = Log(options.json, fold, corpus, options.fold)
    for seed in options.seeds:
        start = time.process_time()
        model, figures = train(studies, choice, maps, config, seed=seed, steps=options.steps)
        busy = figures["training"] / (figures["training"] + figures["waiting"])
        log.write(
            {"measure": "training", "seed": seed, "processor_s": time.process_time() - start, "busy": busy, **figures}
        )
        body = model.cellprofile
        if options.save and seed == options.seeds[0]:
            save(body, [genes[column] for column in choice.columns], choice, options.save)
        cellprofile = of_model(body, choice)
        log.transfers("CellProfile", cellprofile, seed)
        log.transfers("learned part alone", of_model(body, choice, "learned"), seed)
        log.transfers("CellProfile joined with HVG + PCA", joined(cellprofile, both), seed)
        log.few_labels("CellProfile", scaled(cellprofile), seed)
        log.few_labels("CellProfile joined with HVG + PCA", scaled(joined(cellprofile, both)), seed)
    log.transfers("linear maps alone", joined(of_model(body, choice, "factors"), of_model(body, choice, "sketch")))
    log.transfers("corpus SVD", svd)
    log.transfers("HVG + PCA, reference", highly_variable_pca(see_query=False))
    log.transfers("HVG + PCA, reference + query", both)
    log.transfers("corpus SVD joined with HVG + PCA", joined(svd, both))
    log.regression()
    log.few_labels("HVG + PCA of the file", both)
    log.few_labels(
        "linear maps alone", scaled(joined(of_model(body, choice, "factors"), of_model(body, choice, "sketch")))
    )
    log.few_labels("corpus SVD joined with HVG + PCA", scaled(joined(svd, both)))
    log.few_labels("log counts", log_counts)


class Log:
    """Measures ways to embed, prints, and appends a line of JSON to a file as soon as it is known."""

    def __init__(self, path: Path, fold: Fold, corpus: dict[str, Study], name: str) -> None:
        self.path, self.fold, self.corpus, self.name = path, fold, corpus, name
        path.parent.mkdir(parents=True, exist_ok=True)

    def transfers(self, way: str, embed: Embedding, seed: int | None = None) -> None:
        """Labels across studies, mixing and purity."""
        self._transfers(way, partial(transfer, embed), seed)

    def regression(self) -> None:
        """Labels across studies by a logistic regression."""
        self._transfers("logistic regression on log counts", transfer_by_regression, None)

    def _transfers(self, way: str, measured: Callable[[Study, Study], dict[str, Any]], seed: int | None) -> None:
        pairs = [(part(self.corpus, first), part(self.corpus, second)) for first, second in self.fold.transfers]
        found = [measured(*pair) for pair in pairs]
        with warnings.catch_warnings():  # a regression has no neighbours to mix
            warnings.simplefilter("ignore", RuntimeWarning)
            means = {key: float(np.nanmean([one[key] for one in found])) for key in ("macro_f1", "mixing", "purity")}
        each = [one["macro_f1"] for one in found]
        resampled = np.mean([one["resampled"] for one in found], 0).round(4).tolist()
        self.write({"measure": "transfer", "way": way, "seed": seed, **means, "each": each, "resampled": resampled})

    def few_labels(self, way: str, embed: Embedding, seed: int | None = None) -> None:
        """Logistic regression on few labels a class."""
        table = np.array([few_labels(embed, part(self.corpus, name)) for name in self.fold.few_labels])
        self.write(
            {"measure": "few labels", "way": way, "seed": seed, "means": table.mean(0).tolist(), "each": table.tolist()}
        )

    def write(self, line: dict[str, Any]) -> None:
        """Print without what is long, and append."""
        short = {key: _short(value) for key, value in line.items() if key != "resampled"}
        print(self.name, *(f"{key}={value}" for key, value in short.items()), flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"fold": self.name, **line}) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def scaled(embed: Embedding) -> Embedding:
    """As strong as a logistic regression wants vectors of unit length."""
    return lambda studies: [UNIT_SCALE * one for one in embed(studies)]


def kept(embed: Embedding) -> Embedding:
    """Remembers what it made of the same cells, which no seed changes."""
    made: dict[tuple[float, ...], list[Any]] = {}

    def remembered(studies: Sequence[Study]) -> list[Any]:
        key = tuple(float(study.totals @ np.arange(len(study.totals))) for study in studies)
        if key not in made:
            made[key] = embed(studies)
        return made[key]

    return remembered


if __name__ == "__main__":
    main()
