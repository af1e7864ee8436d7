"""A model of one's own: a small Geneformer, pretrained on the example cells and fine-tuned with LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_hf.quickstart.cells import LABELS, READING

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from scfm_hf.tokenization import CellTokenizer


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
