"""Trains a transformer on the sets of a fold for as long as told, alone or taught by a CellProfile, and measures.

The way ``alone`` learns as CellProfile does: views of a cell and cells of a class belong together, and values that were
hidden are told back. The way ``taught`` has, beside these, a second head that tells CellProfile's embedding of the
whole cell. Minutes are those of one core (processor time, without the measuring).

Usage: python scripts/cellprofile/transformer.py --fold A --way alone|taught [--minutes 20 60 120] [--seed 0]
           [--shared ../shared] [--json build/transformer.jsonl]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from corpus import read_corpus
from evaluate import Embedding, highly_variable_pca, joined, of_model
from folds import FOLDS
from gene_choice import scaled_values
from linear_maps import FLOOR_OF_SHARE, POWER, signal_share
from measure import Log, kept, scaled, training_studies
from scipy import sparse
from torch import Tensor, nn
from train import Views, prepare, train
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import ModelOutput

from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig
from scfm_hf.models.cellprofile.pretraining_cellprofile import supervised_contrast
from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.models.scgpt.modeling_scgpt import ScGPTModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corpus import Study
    from gene_choice import Choice
    from numpy.typing import NDArray

    from scfm_hf.models.cellprofile.modeling_cellprofile import CellProfileModel

N_TOKENS, CELLS_A_STEP, CELLS_A_BATCH = 256, 64, 128
LEARNING_RATE, WARM_UP, TEMPERATURE = 1e-3, 0.03, 0.1
#: Share of the values hidden, what stands in their place, and the weights of the losses beside the contrast.
HIDDEN, MASK, VALUE_WEIGHT, TEACHER_WEIGHT = 0.15, -1.0, 0.1, 5.0
LEARNED_SIZE = 128


def sentences(values: sparse.csr_array, weights: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The genes that count most in each cell, by value x weight, padded, (n_cells, at most N_TOKENS)."""
    lengths = np.minimum(np.diff(values.indptr), N_TOKENS)
    real = np.arange(max(1, lengths.max())) < lengths[:, None]
    ids, found = np.zeros(real.shape, np.int64), np.zeros(real.shape, np.float32)
    for row, length in enumerate(lengths):
        of_row = slice(values.indptr[row], values.indptr[row + 1])
        genes, told = values.indices[of_row], values.data[of_row]
        first = np.argpartition(-told * weights[genes], length - 1)[:length] if 0 < length < len(genes) else ...
        ids[row, :length], found[row, :length] = genes[first] + 1, told[first]
    return {"input_ids": ids, "values": found, "attention_mask": real}


class Sentences(Views):
    """Endless batches of views as sentences of genes with values, some of the values hidden; see :class:`Views`.

    Parameters
    ----------
    studies, choice, seed
        See :class:`Views`.
    weights
        How much each gene counts, (n_genes,).
    teacher
        Its embeddings of whole cells are to be told; None: nothing is.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        choice: Choice,
        seed: int,
        weights: NDArray[Any],
        teacher: Any = None,
    ) -> None:
        super().__init__(studies, choice, seed, CELLS_A_STEP)
        self.weights, self.teacher = weights, teacher

    def _batch(self, random: np.random.Generator) -> dict[str, Any]:
        drawn = self.draw(random)
        made = sentences(drawn.views, self.weights)
        hidden = made["attention_mask"] & (random.random(made["values"].shape) < HIDDEN)
        targets = np.where(hidden, made["values"], np.nan).astype(np.float32)
        made["values"] = np.where(hidden, MASK, made["values"]).astype(np.float32)
        batch = {name: torch.from_numpy(part) for name, part in made.items()}
        batch |= drawn.belonging | {"hidden_values": torch.from_numpy(targets)}
        if self.teacher is not None:
            batch["taught"] = torch.from_numpy(self.teacher(drawn.whole)).repeat(2, 1)
        return batch


class Student(nn.Module):
    """scGPT's encoder with values as they are and no dropout, and a linear map for each thing that it must tell."""

    #: Trainer then passes nothing but the batch.
    accepts_loss_kwargs = False

    def __init__(self, start: NDArray[np.float32], taught_size: int | None) -> None:
        super().__init__()
        config = ScGPTConfig(
            vocab_size=len(start) + 1,
            pad_token_id=0,
            cls_token_id=None,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=256,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pooling="mean",
            normalize_embedding=False,
        )
        self.encoder = ScGPTModel(config)
        with torch.no_grad():
            self.encoder.gene_encoder.embedding.weight[1:] = torch.from_numpy(start[:, : config.hidden_size])
        self.learned = nn.Linear(config.hidden_size, LEARNED_SIZE)
        self.value = nn.Linear(config.hidden_size, 1)
        self.told = nn.Linear(config.hidden_size, taught_size) if taught_size else None

    def vectors(self, pooled: Tensor) -> list[Tensor]:
        """What the heads make of the mean of the states: learned, and told of the teacher."""
        return [head(pooled).float() for head in (self.learned, self.told) if head is not None]

    def forward(
        self,
        input_ids: Tensor,
        values: Tensor,
        attention_mask: Tensor,
        hidden_values: Tensor,
        taught: Tensor | None = None,
        **belonging: Tensor,
    ) -> ModelOutput:
        """Sum of the losses."""
        encoded = self.encoder(input_ids, values, attention_mask)
        vectors = self.vectors(encoded.cell_embedding)
        loss = supervised_contrast(vectors[0], temperature=TEMPERATURE, **belonging)
        hidden = ~hidden_values.isnan()
        told = self.value(encoded.last_hidden_state[hidden]).float().squeeze(-1)
        loss = loss + VALUE_WEIGHT * (told - hidden_values[hidden]).square().mean()
        if taught is not None:
            loss = loss + TEACHER_WEIGHT * (1 - nn.functional.cosine_similarity(vectors[1], taught)).mean()
        return ModelOutput(loss=loss)


def of_student(student: Student, choice: Choice, weights: NDArray[Any]) -> Embedding:
    """Both vectors of each cell side by side, each of unit length."""

    def embed(studies: Sequence[Study]) -> list[Any]:
        found = []
        for study in studies:
            values, parts = sparse.csr_array(scaled_values(study, choice)), []
            with torch.inference_mode():
                for start in range(0, values.shape[0], CELLS_A_BATCH):
                    made = sentences(values[start : start + CELLS_A_BATCH], weights)
                    pooled = student.encoder(**{name: torch.from_numpy(one) for name, one in made.items()})
                    vectors = student.vectors(pooled.cell_embedding)
                    parts.append(torch.cat([nn.functional.normalize(one, dim=1) for one in vectors], 1).numpy())
            found.append(np.concatenate(parts))
        return found

    return embed


def columns(embed: Embedding, start: int, stop: int | None) -> Embedding:
    """Some of the columns."""
    return lambda studies: [one[:, start:stop] for one in embed(studies)]


class Clock(TrainerCallback):
    """Sets the rate by the time used (warm-up, then a cosine to 0), measures at each mark, and stops at the last."""

    def __init__(self, minutes: Sequence[float], optimizer: torch.optim.Optimizer, measure: Any) -> None:
        self.marks, self.optimizer, self.measure = sorted(minutes), optimizer, measure
        self.total, self.start = 60 * max(minutes), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Look at the clock."""
        used = time.process_time() - self.start
        share = min(1.0, used / self.total)
        rate = LEARNING_RATE * min(share / WARM_UP, 0.5 * (1 + math.cos(math.pi * share)))
        for group in self.optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        if used >= 60 * self.marks[0]:
            before = time.process_time()
            self.measure(self.marks.pop(0), state)
            self.start += time.process_time() - before
        control.should_training_stop = not self.marks
        return control


def fit(student: Student, sentences_of_fold: Sentences, minutes: Sequence[float], measure: Any, seed: int) -> None:
    """Train with the stock Trainer, in bfloat16 where torch does so."""
    optimizer = torch.optim.AdamW(student.parameters(), 1e-6, weight_decay=0.02, fused=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=10**6,
            per_device_train_batch_size=1,
            max_grad_norm=1.0,
            use_cpu=True,
            bf16=True,
            report_to="none",
            save_strategy="no",
            logging_steps=50,
            accelerator_config={"dispatch_batches": False},
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            disable_tqdm=True,
            seed=seed,
        )
        Trainer(
            student,
            arguments,
            train_dataset=sentences_of_fold,
            data_collator=lambda batches: batches[0],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
            callbacks=[Clock(minutes, optimizer, measure)],
        ).train()


def embeddings_of(teacher: CellProfileModel) -> Any:
    """Values -> the teacher's embeddings, (n_cells, width), float32."""
    table = teacher.genes.weight.detach()[1:].numpy()

    def told(values: sparse.csr_array) -> NDArray[np.float32]:
        with torch.inference_mode():
            summed = torch.from_numpy(np.asarray(values @ table, np.float32))
            states, *linear = summed.split(teacher.widths, dim=1)
            for layer in teacher.layers:
                states = layer(states)
            return torch.cat([nn.functional.normalize(one, dim=1) for one in (states, *linear)], 1).numpy()

    return told


def main() -> None:
    """Train one way, measure at each mark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", choices=sorted(FOLDS), required=True)
    parser.add_argument("--way", choices=("alone", "taught"), required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[20, 60, 120])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[3] / "shared")
    parser.add_argument("--json", type=Path, default=Path("build/transformer.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, corpus = read_corpus(options.shared / "data")
    studies = training_studies(corpus, FOLDS[options.fold].left_out)
    config = CellProfileConfig()
    choice, maps = prepare(studies, config)
    weights = (signal_share(studies, choice) + FLOOR_OF_SHARE) ** POWER
    teacher = train(studies, choice, maps, config, seed=options.seed)[0].cellprofile
    log = Log(options.json, FOLDS[options.fold], corpus, options.fold)
    cellprofile, both = kept(of_model(teacher, choice)), kept(highly_variable_pca(see_query=True))
    torch.manual_seed(options.seed)
    taught = options.way == "taught"
    width = config.output_size + config.factor_size + config.sketch_size
    student = Student(maps.start, width if taught else None)
    print(f"{options.way}: {sum(one.numel() for one in student.parameters()):,} parameters", flush=True)

    def measure(minutes: float, state: Any) -> None:
        student.eval()
        recent = [line["loss"] for line in state.log_history if "loss" in line][-4:]
        line = {"measure": "steps", "minutes": minutes, "steps": state.global_step, "loss": float(np.mean(recent))}
        log.write({"way": options.way, "seed": options.seed, **line})
        embed = kept(of_student(student, choice, weights))
        learned = columns(embed, 0, LEARNED_SIZE)
        ways = {"transformer, contrast": learned, "CellProfile + transformer": joined(cellprofile, learned)}
        if taught:
            told = columns(embed, LEARNED_SIZE, None)
            ways |= {"transformer, told": told, "transformer, contrast + told": joined(learned, told)}
        if last := minutes == max(options.minutes):
            ways |= {f"{name} + PCA of both": joined(way, both) for name, way in ways.items()}
        for name, way in ways.items():
            log.transfers(f"{options.way}, {minutes:g} min: {name}", way, options.seed)
            if last and "PCA" not in name:
                log.few_labels(f"{options.way}, {minutes:g} min: {name}", scaled(way), options.seed)
        torch.save(student.state_dict(), options.json.with_suffix(f".{options.way}.{options.fold}.pt"))
        student.train()

    views = Sentences(studies, choice, options.seed, weights, embeddings_of(teacher) if taught else None)
    fit(student, views, options.minutes, measure, options.seed)


if __name__ == "__main__":
    main()
