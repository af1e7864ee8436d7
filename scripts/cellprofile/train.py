"""Trains a CellProfile with the stock Trainer: two views of each cell, drawn anew at every step."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from corpus import COARSE
from gene_choice import FLOOR, LARGEST, Choice, choose_genes, directions
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig
from scfm_hf.models.cellprofile.pretraining_cellprofile import CellProfileForPreTraining

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corpus import Study
    from numpy.typing import NDArray
    from torch import Tensor

N_GENES = 8000
CELLS_A_STEP = 160
STEPS = 400
LEARNING_RATE = 1e-3
#: Views: least share of the molecules kept, share of the entries dropped, spread of the gain of a gene (log), how often
#: and up to which share genes are hidden as if a panel had not measured them.
THINNED_TO, DROPPED, GAIN, PANELS, HIDDEN = 0.15, 0.2, 0.5, 0.5, 0.7


class Views(IterableDataset[dict[str, Any]]):
    """Endless batches: cells of studies drawn by the root of their size, two views each.

    Parameters
    ----------
    studies
        The corpus.
    choice
        Genes, with their deviations.
    seed
        Of every draw.
    """

    def __init__(self, studies: Sequence[Study], choice: Choice, seed: int) -> None:
        self.counts = [study.counts[:, choice.columns].toarray() for study in studies]
        self.totals = [study.totals for study in studies]
        self.measured = np.array([study.measured[choice.columns] for study in studies])
        self.scale = (1 / (choice.deviation + FLOOR)).astype(np.float32)
        self.seed = seed
        words = sorted({word for study in studies for word in study.labels} - {""})
        coarse = {kind: word for word, kinds in COARSE.items() if word in words for kind in kinds}
        number = {word: i for i, word in enumerate(words)} | {"": -100}
        self.labels = [np.array([number[word] for word in study.labels]) for study in studies]
        self.coarse = [np.array([number[coarse.get(word, word)] for word in study.labels]) for study in studies]
        sizes = np.array([len(study.totals) for study in studies]) ** 0.5
        self.shares = sizes / sizes.sum()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        random = np.random.default_rng(self.seed)
        while True:
            yield self._batch(random)

    def _batch(self, random: np.random.Generator) -> dict[str, Any]:
        chosen = random.choice(len(self.counts), CELLS_A_STEP, p=self.shares)
        cells = [(study, random.integers(len(self.totals[study]))) for study in chosen]
        counts = np.array([self.counts[study][cell] for study, cell in cells])
        totals = np.array([self.totals[study][cell] for study, cell in cells])
        labels = np.array([self.labels[study][cell] for study, cell in cells])
        coarse = np.array([self.coarse[study][cell] for study, cell in cells])
        views = np.concatenate([self._view(counts, totals, random) for _ in range(2)])
        return {
            **tokens_of(views),
            "labels": torch.from_numpy(np.tile(labels, 2)),
            "coarse_classes": torch.from_numpy(np.tile(coarse, 2)),
            "view_of": torch.arange(CELLS_A_STEP).repeat(2),
            "studies": torch.from_numpy(np.tile(chosen, 2)),
            "whole_values": _with_padding(np.tile(self._values(counts, totals), (2, 1))),
            "measured": _with_padding(np.tile(self.measured[chosen].astype(np.float32), (2, 1))),
        }

    def _view(self, counts: NDArray[np.float32], totals: NDArray[np.float32], random: np.random.Generator) -> Any:
        """Thin the molecules, drop entries, change the gain of genes, and hide some as a panel would."""
        kept = np.exp(random.uniform(np.log(THINNED_TO), 0, len(counts)))
        view = random.binomial(counts.astype(np.int64), kept[:, None]).astype(np.float32)
        view *= random.random(view.shape, dtype=np.float32) > DROPPED
        view *= np.exp(GAIN * random.standard_normal(view.shape[1])).astype(np.float32)
        if random.random() < PANELS:
            view *= random.random(view.shape[1]) > random.uniform(0, HIDDEN)
        return self._values(view, totals * kept)

    def _values(self, counts: NDArray[np.float32], totals: NDArray[Any]) -> NDArray[np.float32]:
        return np.minimum(np.log1p(counts * (1e4 / np.maximum(totals, 1))[:, None]) * self.scale, LARGEST).astype(
            np.float32
        )


def tokens_of(values: NDArray[np.float32]) -> dict[str, Tensor]:
    """Expressed genes and their values, padded; gene 0 of the vocabulary is padding."""
    lengths = (values > 0).sum(1)
    real = np.arange(lengths.max()) < lengths[:, None]
    rows, columns = np.nonzero(values)
    ids, found = np.zeros(real.shape, np.int64), np.zeros(real.shape, np.float32)
    ids[real], found[real] = columns + 1, values[rows, columns]
    return {
        "input_ids": torch.from_numpy(ids),
        "values": torch.from_numpy(found),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }


def _with_padding(values: NDArray[np.float32]) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(values), (1, 0))


def parts_of(study: Study) -> list[Study]:
    """The studies of a set."""
    return [study.take(study.parts == part) for part in np.unique(study.parts)]


def train(studies: Sequence[Study], *, seed: int, steps: int = STEPS) -> tuple[CellProfileForPreTraining, Choice]:
    """Choose genes, find directions, and train; everything from the studies given."""
    choice = choose_genes(studies, N_GENES)
    config = CellProfileConfig(vocab_size=N_GENES + 1)
    torch.manual_seed(seed)
    model = CellProfileForPreTraining(config)
    maps = directions(studies, choice, config.hidden_size)
    sketch = np.random.default_rng(0).standard_normal((N_GENES, config.sketch_size)) / config.sketch_size**0.5
    lines = np.concatenate([0.1 * maps, maps[:, : config.factor_size], sketch], axis=1).astype(np.float32)
    with torch.no_grad():
        model.cellprofile.genes.weight[1:] = torch.from_numpy(lines)
    # The linear maps get no gradient; without weight decay they stay as they are.
    table = [model.cellprofile.genes.weight]
    others = [parameter for name, parameter in model.named_parameters() if name != "cellprofile.genes.weight"]
    groups = [{"params": table, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.02}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=1,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=50,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            seed=seed,
        )
        Trainer(
            model,
            arguments,
            train_dataset=Views(studies, choice, seed),
            data_collator=lambda batches: batches[0],
            optimizers=(optimizer, schedule),
        ).train()
    return model.eval(), choice
