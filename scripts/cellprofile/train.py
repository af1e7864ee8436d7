"""Trains a CellProfile with the stock Trainer: two views of each cell, drawn anew at every step."""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from corpus import COARSE
from gene_choice import FLOOR, LARGEST, Choice, choose_genes
from linear_maps import LinearMaps, find_linear_maps
from scipy import sparse
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig
from scfm_hf.models.cellprofile.pretraining_cellprofile import CellProfileForPreTraining
from scfm_hf.tasks.own_components import log_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corpus import Study
    from numpy.typing import NDArray
    from torch import Tensor

CELLS_A_STEP = 128
STEPS = 200
LEARNING_RATE = 1e-3
#: Views: least share of the molecules kept, share of the entries dropped, spread of the gain of a gene (log), how often
#: and up to which share genes are hidden as if a panel had not measured them.
THINNED_TO, DROPPED, GAIN, PANELS, HIDDEN = 0.15, 0.2, 0.5, 0.5, 0.7


class Drawn(NamedTuple):
    """Values of the views (the first ones, then the second ones) and of the whole cells, studies of the cells, and what
    :func:`supervised_contrast` asks for of each view."""

    views: sparse.csr_array
    whole: sparse.csr_array
    studies: NDArray[np.int64]
    belonging: dict[str, Tensor]


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
    n_cells
        Cells of a batch.
    """

    def __init__(self, studies: Sequence[Study], choice: Choice, seed: int, n_cells: int = CELLS_A_STEP) -> None:
        self.n_cells = n_cells
        self.counts = [sparse.csr_array(study.counts[:, choice.columns]) for study in studies]
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
        drawn = self.draw(random)
        return {
            **tokens_of(drawn.views),
            **drawn.belonging,
            # Told back from the first view alone, which costs half as much.
            "whole_values": _with_padding(drawn.whole.toarray().astype(np.float16)),
            "measured": _with_padding(self.measured[drawn.studies]),
        }

    def draw(self, random: np.random.Generator) -> Drawn:
        """Cells, two views of each, and what belongs together."""
        chosen = np.sort(random.choice(len(self.counts), self.n_cells, p=self.shares))
        groups = [
            (study, random.integers(len(self.totals[study]), size=(chosen == study).sum()))
            for study in np.unique(chosen)
        ]
        counts = sparse.csr_array(sparse.vstack([self.counts[study][cells] for study, cells in groups]))
        totals = np.concatenate([self.totals[study][cells] for study, cells in groups])
        labels = np.concatenate([self.labels[study][cells] for study, cells in groups])
        coarse = np.concatenate([self.coarse[study][cells] for study, cells in groups])
        views = sparse.vstack([self._view(counts, totals, random) for _ in range(2)])
        belonging = {
            "labels": torch.from_numpy(np.tile(labels, 2)),
            "coarse_classes": torch.from_numpy(np.tile(coarse, 2)),
            "view_of": torch.arange(self.n_cells).repeat(2),
            "studies": torch.from_numpy(np.tile(chosen, 2)),
        }
        return Drawn(sparse.csr_array(views), self._values(counts, totals), chosen, belonging)

    def _view(self, counts: sparse.csr_array, totals: NDArray[np.float32], random: np.random.Generator) -> Any:
        """Thin the molecules, drop entries, change the gain of genes, and hide some as a panel would."""
        kept = np.exp(random.uniform(np.log(THINNED_TO), 0, counts.shape[0]))
        view = counts.copy()
        view.data = random.binomial(counts.data.astype(np.int64), np.repeat(kept, np.diff(counts.indptr))).astype(
            np.float32
        )
        view.data *= random.random(len(view.data), dtype=np.float32) > DROPPED
        gain = np.exp(GAIN * random.standard_normal(view.shape[1]))
        if random.random() < PANELS:
            gain *= random.random(view.shape[1]) > random.uniform(0, HIDDEN)
        view.data *= gain.astype(np.float32)[view.indices]
        return self._values(view, totals * kept)

    def _values(self, counts: sparse.csr_array, totals: NDArray[Any]) -> sparse.csr_array:
        values = log_values(counts, totals)
        values.data = np.minimum(values.data * self.scale[values.indices], LARGEST)
        values.eliminate_zeros()
        return values


def tokens_of(values: sparse.csr_array) -> dict[str, Tensor]:
    """Expressed genes and their values, padded, in small types that travel fast; gene 0 is padding."""
    lengths = np.diff(values.indptr)
    real = np.arange(lengths.max()) < lengths[:, None]
    ids, found = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.float32)
    ids[real], found[real] = values.indices + 1, values.data
    return {
        "input_ids": torch.from_numpy(ids),
        "values": torch.from_numpy(found),
        "attention_mask": torch.from_numpy(real),
    }


def _with_padding(values: NDArray[Any]) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(values), (1, 0))


def parts_of(study: Study) -> list[Study]:
    """The studies of a set."""
    return [study.take(study.parts == part) for part in np.unique(study.parts)]


def prepare(studies: Sequence[Study], config: CellProfileConfig) -> tuple[Choice, LinearMaps]:
    """Genes and linear maps: all that no seed changes."""
    choice = choose_genes(studies, config.vocab_size - 1)
    sizes = {name: getattr(config, name) for name in ("hidden_size", "factor_size", "sketch_size")}
    return choice, find_linear_maps(studies, choice, **sizes)


def train(
    studies: Sequence[Study],
    choice: Choice,
    maps: LinearMaps,
    config: CellProfileConfig,
    *,
    seed: int,
    steps: int = STEPS,
) -> tuple[CellProfileForPreTraining, dict[str, float]]:
    """Train the encoder from where the linear maps let it start, and put them beside it; and what :func:`fit` gives."""
    torch.manual_seed(seed)
    # What is not trained would only cost time: a model without the linear maps is trained.
    small = CellProfileConfig(**{**config.to_dict(), "factor_size": 1, "sketch_size": 1})
    model = CellProfileForPreTraining(small)
    with torch.no_grad():
        model.cellprofile.genes.weight[1:, : config.hidden_size] = torch.from_numpy(maps.start)
    figures = fit(model, Views(studies, choice, seed), seed=seed, steps=steps)
    return _with_maps(model, config, maps), figures


def fit(model: CellProfileForPreTraining, views: Views, *, seed: int, steps: int) -> dict[str, float]:
    """Train with the stock Trainer; seconds of training and of waiting for data, and the loss at first and last."""
    table = [model.cellprofile.genes.weight]
    others = [parameter for name, parameter in model.named_parameters() if name != "cellprofile.genes.weight"]
    groups = [{"params": table, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.02}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, fused=True)
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
            logging_steps=max(1, min(50, steps // 4)),
            # A data set of batches needs no main process to cut and hand out batches.
            accelerator_config={"dispatch_batches": False},
            dataloader_num_workers=1,
            dataloader_prefetch_factor=4,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            disable_tqdm=True,
            seed=seed,
        )
        trainer = MeasuringTrainer(
            model, arguments, train_dataset=views, data_collator=_first, optimizers=(optimizer, schedule)
        )
        trainer.train()
    model.eval()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {**trainer.seconds, "first_loss": float(losses[0]), "last_loss": float(losses[-1])}


class MeasuringTrainer(Trainer):
    """Trainer that adds up how long it trains, and how long it waits for data after the first batch."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seconds = {"training": 0.0, "waiting": 0.0, "starting": 0.0}

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        start = time.perf_counter()
        loss = super().training_step(*arguments, **options)
        self.seconds["training"] += time.perf_counter() - start
        return loss

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = super().get_batch_samples(*arguments, **options)
        self.seconds["waiting" if self.seconds["training"] else "starting"] += time.perf_counter() - start
        return found


def _first(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """A data set of whole batches needs no collation."""
    return batches[0]


def _with_maps(
    trained: CellProfileForPreTraining, config: CellProfileConfig, maps: LinearMaps
) -> CellProfileForPreTraining:
    """The trained encoder with the linear maps beside it."""
    model = CellProfileForPreTraining(config)
    state = trained.state_dict()
    name = "cellprofile.genes.weight"
    lines = torch.from_numpy(np.concatenate([maps.factors, maps.sketch], axis=1))
    state[name] = torch.cat([state[name][:, : config.hidden_size], torch.nn.functional.pad(lines, (0, 0, 1, 0))], 1)
    model.load_state_dict(state)
    return model.eval()
