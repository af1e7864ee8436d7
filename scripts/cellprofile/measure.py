"""Train with a fold left out, measure beside the baselines, and keep the model if asked.

Usage: python scripts/cellprofile/measure.py --fold A [--seed 0] [--shared ../shared] [--json build/cellprofile.jsonl]
           [--save scfm_hf/models/cellprofile/shipped/cellprofile-human]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from corpus import SETS, Study, read_corpus
from evaluate import UNIT_SCALE, few_labels, highly_variable_pca, joined, log_counts, of_model, transfer
from folds import FOLDS
from train import STEPS, parts_of, train

from scfm_hf import CellTokenizer, GeneVocabulary

if TYPE_CHECKING:
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
    """Train, measure, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", choices=sorted(FOLDS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--json", type=Path, default=Path("build/cellprofile.jsonl"))
    parser.add_argument("--save", type=Path, help="keep encoder and tokenizer in this folder, in half precision")
    options = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "scikit-learn", "numpy"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {libraries}")
    genes, corpus = read_corpus(options.shared / "data")
    fold = FOLDS[options.fold]
    start = time.process_time()
    model, choice = train(training_studies(corpus, fold.left_out), seed=options.seed, steps=options.steps)
    print(f"trained in {time.process_time() - start:.0f} s of processor time")
    if options.save:
        save(model.cellprofile, [genes[column] for column in choice.columns], choice, options.save)
    both = highly_variable_pca(see_query=True)
    body = model.cellprofile
    ways = {
        "CellProfile": of_model(body, choice),
        "learned part alone": of_model(body, choice, "learned"),
        "factors (corpus SVD)": of_model(body, choice, "factors"),
        "HVG + PCA, reference": highly_variable_pca(see_query=False),
        "HVG + PCA, reference + query": both,
        "factors joined with HVG + PCA": joined(of_model(body, choice, "factors"), both),
        "CellProfile joined with HVG + PCA": joined(of_model(body, choice), both),
    }
    lines = []
    for way, embed in ways.items():
        found = [transfer(embed, part(corpus, first), part(corpus, second)) for first, second in fold.transfers]
        means = {key: float(np.nanmean([one[key] for one in found])) for key in found[0]}
        each = " ".join(f"{one['macro_f1']:.2f}" for one in found)
        print(f"{way:36s}{each} | F1 {means['macro_f1']:.3f} mixing {means['mixing']:.2f} purity {means['purity']:.2f}")
        lines.append({"measure": "transfer", "way": way, "each": [one["macro_f1"] for one in found], **means})
    few = {
        "CellProfile": of_model(body, choice, scale=UNIT_SCALE),
        "log counts": log_counts,
        "HVG + PCA of the file": highly_variable_pca(see_query=False),
        "CellProfile joined with HVG + PCA": lambda studies: [
            UNIT_SCALE * one for one in ways[list(ways)[-1]](studies)
        ],
    }
    for way, embed in few.items():
        table = np.array([few_labels(embed, part(corpus, name)) for name in fold.few_labels])
        shown = " / ".join(f"{mean:.3f}" for mean in table.mean(0))
        print(f"{way:36s}macro-F1 at 1 / 5 / 10 / 20 labels: {shown}")
        lines.append({"measure": "few labels", "way": way, "means": table.mean(0).tolist(), "each": table.tolist()})
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with options.json.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps({"fold": options.fold, "seed": options.seed, **line}) + "\n")


if __name__ == "__main__":
    main()
