"""The main job from end to end on real cells: ``python -m scfm_hf.quickstart``.

Counts -> tokens -> a small Geneformer, pretrained -> LoRA with the stock Trainer -> saved, reloaded -> annotation of
held-out cells, beside a plain baseline. Interrupt it at any time: the next start goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_hf.tokenization import CellTokenizer

LABELS = "cell_type"
#: How the example cells are read: genes by Ensembl id; the vocabulary leaves out rare genes, which hold few counts.
READING: dict[str, Any] = {"gene_column": "ensembl_id", "min_overlap": 0.3}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the quickstart; the options say how long and how large."""
    options = _parser().parse_args(arguments)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = split_cells(options.cells, options.seed)
    print(f"{train.n_obs} cells to learn from, {test.n_obs} held out, {train.n_vars} genes; {machine()}")

    base = pretrain(train, folder / "base", epochs=options.pretraining_epochs, seed=options.seed, width=options.width)
    adapter = fine_tune(train, base, folder / "adapter", epochs=options.epochs, seed=options.seed)
    annotated = annotate_and_draw(test, base, adapter, folder)
    figures = {
        "fine-tuned with LoRA": scores(annotated.obs[LABELS], annotated.obs[f"{LABELS}_predicted"]),
        "logistic regression on log counts": scores(test.obs[LABELS], baseline(train, test, options.seed)),
    }
    report(figures, folder)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="quickstart-results", help="folder of the results")
    parser.add_argument("--cells", type=int, default=None, help="use only so many cells (for a quick look)")
    parser.add_argument("--pretraining-epochs", type=float, default=10)
    parser.add_argument("--epochs", type=float, default=7, help="epochs of fine-tuning")
    parser.add_argument("--width", type=int, default=64, help="hidden size of the model")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def split_cells(n_cells: int | None, seed: int) -> tuple[AnnData, AnnData]:
    """The labelled example cells, four fifths to learn from, the rest held out, by class."""
    from sklearn.model_selection import train_test_split

    from scfm_hf.data.examples import load_example

    adata = load_example("pbmc3k")
    known = adata.obs[LABELS].notna() & (adata.obs[LABELS].astype(str) != "unassigned")
    adata = adata[known].copy()
    adata.obs[LABELS] = adata.obs[LABELS].cat.remove_unused_categories()
    if n_cells is not None and n_cells < adata.n_obs:
        kept, _ = train_test_split(
            np.arange(adata.n_obs), train_size=n_cells, stratify=adata.obs[LABELS], random_state=seed
        )
        adata = adata[np.sort(kept)].copy()
    rows = np.arange(adata.n_obs)
    train, test = train_test_split(rows, test_size=0.2, stratify=adata.obs[LABELS], random_state=seed)
    return adata[np.sort(train)].copy(), adata[np.sort(test)].copy()


def pretrain(train: AnnData, folder: Path, *, epochs: float, seed: int, width: int) -> Path:
    """A small Geneformer, pretrained to name masked genes; done once."""
    if (folder / "config.json").is_file():
        print(f"{folder} is there already: pretraining is skipped")
        return folder
    from transformers import DataCollatorForLanguageModeling, Trainer, set_seed

    from scfm_hf.folders import whole_folder
    from scfm_hf.models.registry import families
    from scfm_hf.tokenization.statistics import rank_tokenizer

    tokenizer = rank_tokenizer(train, gene_column="ensembl_id", min_cells=max(10, train.n_obs // 40), max_length=128)
    spec = families()["geneformer"]
    set_seed(seed)
    model = spec.load_class("GeneformerForMaskedLM")(_config(spec.load_config_class(), tokenizer, width))
    print(f"pretraining: {model.num_parameters():,} parameters, {len(tokenizer):,} genes and special tokens")
    checkpoints = folder.with_name("pretraining-checkpoints")
    trainer = Trainer(
        model=model,
        args=_training_arguments(checkpoints, seed, num_train_epochs=epochs, learning_rate=2e-3, warmup_steps=50),
        train_dataset=tokenizer.to_dataset(train, **READING),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    trainer.train(resume_from_checkpoint=_last(checkpoints))
    with whole_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
    return folder


def _config(config_class: Any, tokenizer: CellTokenizer, width: int) -> Any:
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "mask", "cls", "eos")}
    return config_class(
        version="V2",
        vocab_size=len(tokenizer),
        vocabulary_digest=tokenizer.vocabulary_digest,
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        pooling="cls",
        embedding_layer=-1,
        **special,
    )


def fine_tune(train: AnnData, base: Path, folder: Path, *, epochs: float, seed: int) -> Path:
    """A LoRA adapter that labels cells, trained by the stock Trainer; done once."""
    if (folder / "adapter_config.json").is_file():
        print(f"{folder} is there already: fine-tuning is skipped")
        return folder
    from scfm_hf.tasks.finetune import finetune

    options: dict[str, Any] = {"learning_rate": 3e-3, "epochs": epochs, "seed": seed, "patience": None, **READING}
    result = finetune(train, base, labels=LABELS, output=folder, resume=True, **options)
    shown = ", ".join(f"{name} {result.metrics[name]:.3f}" for name in ("accuracy", "macro_f1"))
    print(f"validation cells of the fine-tuning: {shown}")
    return folder


def annotate_and_draw(test: AnnData, base: Path, adapter: Path, folder: Path) -> AnnData:
    """Annotate the held-out cells with the reloaded adapter; leave an annotated file and a picture."""
    from scfm_hf.hub import load_adapter
    from scfm_hf.tasks.annotate import annotate
    from scfm_hf.tasks.embed import embed

    model = load_adapter(adapter, base=base)
    annotated = test.copy()
    annotate(annotated, model, inplace=True, tokenizer=str(base), method="classifier", key_added=LABELS, **READING)
    embed(annotated, model, tokenizer=str(base), inplace=True, **READING)
    draw(annotated, folder / "umap.png")
    del annotated.uns["example"]
    beside = folder / "annotated.part.h5ad"
    annotated.write_h5ad(beside)
    beside.replace(folder / "annotated.h5ad")
    return annotated


def draw(adata: AnnData, path: Path) -> None:
    """UMAP of the embedding, coloured by the true and the predicted label."""
    import matplotlib as mpl
    import torch
    import umap

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    threads = torch.get_num_threads()
    place = umap.UMAP(random_state=0, n_jobs=1).fit_transform(adata.obsm["X_geneformer"])
    torch.set_num_threads(threads)  # UMAP's numba sets it for the whole process
    adata.obsm["X_umap"] = place
    figure, panels = plt.subplots(1, 2, figsize=(13, 5), sharex=True, sharey=True, layout="constrained")
    names = list(adata.obs[LABELS].cat.categories)
    colours = dict(zip(names, mpl.color_sequences["tab10"], strict=False))
    for panel, column, title in zip(panels, (LABELS, f"{LABELS}_predicted"), ("labels", "predicted"), strict=True):
        for name in names:
            chosen = (adata.obs[column].astype(str) == name).to_numpy()
            panel.scatter(*place[chosen].T, s=9, color=colours.get(name, "grey"), label=name)
        panel.set(title=title, xticks=[], yticks=[])
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle("Held-out blood cells in the embedding of the fine-tuned model")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def baseline(train: AnnData, test: AnnData, seed: int) -> NDArray[Any]:
    """Labels by logistic regression on log-normalised counts of all genes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import MaxAbsScaler, normalize

    def log_counts(adata: AnnData) -> Any:
        values = normalize(adata.X, norm="l1") * 1e4
        values.data = np.log1p(values.data)
        return values

    scaler = MaxAbsScaler().fit(log_counts(train))
    model = LogisticRegression(max_iter=1000, random_state=seed).fit(
        scaler.transform(log_counts(train)), train.obs[LABELS]
    )
    return model.predict(scaler.transform(log_counts(test)))


def scores(wanted: Any, found: Any) -> dict[str, float]:
    """Accuracy and macro-F1."""
    from sklearn.metrics import accuracy_score, f1_score

    wanted, found = np.asarray(wanted, str), np.asarray(found, str)
    return {
        "accuracy": float(accuracy_score(wanted, found)),
        "macro_f1": float(f1_score(wanted, found, average="macro")),
    }


def report(figures: dict[str, dict[str, float]], folder: Path) -> None:
    """Print the figures, and leave them as JSON."""
    print(f"\nheld-out cells{'':<24}accuracy   macro-F1")
    for name, values in figures.items():
        print(f"{name:<38}{values['accuracy']:>8.3f}   {values['macro_f1']:>8.3f}")
    print(
        "\nA model that has seen 2,000 cells is an example, not a foundation model: the baseline is there to say so.\n"
        f"Results in {folder}: annotated.h5ad, umap.png, the model in base, the adapter in adapter"
    )
    (folder / "figures.json").write_text(json.dumps({"figures": figures, "machine": machine()}, indent=2) + "\n")


def machine() -> str:
    """Processor and versions, for whoever compares numbers."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "numpy"))
    return f"{platform.machine()}, Python {platform.python_version()}, {libraries}"


def _training_arguments(folder: Path, seed: int, **options: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        save_strategy="steps",
        save_steps=100,
        save_total_limit=2,
        logging_steps=50,
        report_to="none",
        dataloader_pin_memory=False,
        seed=seed,
        **options,
    )


def _last(folder: Path) -> str | None:
    """The last checkpoint of an interrupted run."""
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


if __name__ == "__main__":
    main()
