"""Synthetic corpora whose answer is known: cells of a few programmes, with the best result that any model can have.

Every generator gives cells as a corpus does, and what Bayes' rule gives for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.registry import families
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from scfm_hf.training.objectives import Objectives
    from scfm_hf.training.objectives.model import EncoderWithObjectives

N_GENES, N_PROGRAMMES = 24, 3
SPECIAL = {"pad": "<pad>", "cls": "<cls>", "mask": "<mask>"}
PROGRAMMES = [f"programme {number}" for number in range(N_PROGRAMMES)]
BATCHES = ["batch 0", "batch 1"]


# ------------------------------------------------------------------------------------------------------------- models


def vocabulary(n_genes: int = N_GENES) -> GeneVocabulary:
    """Genes, whose ids are their numbers, and special tokens."""
    return GeneVocabulary(
        [*(f"G{number}" for number in range(n_genes)), *SPECIAL.values()],
        special_tokens=SPECIAL,
        id_kind="symbol",
        species=("human",),
    )


def tokenizer_of_profiles(n_genes: int = N_GENES) -> CellTokenizer:
    """The log values of all genes, for an encoder without tokens (SCimilarity)."""
    return CellTokenizer.from_vocabulary(vocabulary(n_genes), scheme="scimilarity")


def tokenizer_of_values(n_genes: int = N_GENES) -> CellTokenizer:
    """Every expressed gene with log(1 + count scaled to 1,000)."""
    return CellTokenizer.from_vocabulary(vocabulary(n_genes), scheme="bin", n_bins=None, target_sum=1e3, log1p=True)


def tokenizer_of_ranks(n_genes: int = N_GENES) -> CellTokenizer:
    """Genes by their counts, without values."""
    genes = vocabulary(n_genes)
    return CellTokenizer.from_vocabulary(
        genes, scheme="rank", statistics={"median": np.ones(len(genes))}, max_length=64
    )


def encoder_of(family: str, *, n_genes: int = N_GENES, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A small encoder of a family, without dropout."""
    spec = families()[family]
    config: dict[str, Any] = {**spec.tiny, "pad_token_id": n_genes, "vocab_size": n_genes + len(SPECIAL)}
    if family == "scimilarity":
        config |= {"num_genes": n_genes, "hidden_sizes": [64], "latent_size": 16}
    else:
        config |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        # Large enough for attention to tell genes apart from the first step.
        config |= {"initializer_range": 0.2 if family == "scgpt" else 0.1}
    if family == "scgpt":
        config |= {"cls_token_id": n_genes + 1, "normalize_embedding": False, "norm_position": "residual"}
    torch.manual_seed(seed)
    return spec.load_class(spec.locate(spec.classes_of("AutoModel")[0])[1])(
        spec.load_config_class()(**config | options)
    )


def train(
    objectives: Objectives,
    encoder: PreTrainedModel,
    cells: Sequence[Mapping[str, Any]],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> EncoderWithObjectives:
    """Train with a one-cycle learning rate; each pass over the cells is an epoch."""
    model = objectives.model(encoder).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.2)
    order, place, epoch = np.random.default_rng(seed), len(cells), -1
    for _ in range(steps):
        if place + batch_size > len(cells):
            permuted, place, epoch = order.permutation(len(cells)), 0, epoch + 1
            objectives.collator.set_epoch(epoch)
        batch = objectives.collator([cells[row] for row in permuted[place : place + batch_size]])
        place += batch_size
        loss = model(**batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def embed(model: EncoderWithObjectives, objectives: Objectives, cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Cell embeddings, (n_cells, embedding_size)."""
    from scfm_hf.training.objectives.cell_batch import CellBatch

    batch = CellBatch(
        cells, tokenizer=objectives.tokenizer, classes=objectives.classes, config=model.config, family="any"
    )
    return model.encoder.eval()(**batch.pad(batch.whole)).cell_embedding.numpy()


# ------------------------------------------------------------------------------------------------------------- counts


@dataclass(frozen=True)
class Counts:
    """Cells whose counts are negative binomial with the mean depth x profile of a programme.

    Parameters
    ----------
    cells
        With ``gene_ids``, ``counts``, ``cell_id``, ``programme`` and ``batch``.
    counts
        All of them, (n_cells, n_genes).
    programmes, batches
        Numbers, (n_cells,).
    means
        True mean of every count, (n_cells, n_genes), before dropout.
    dispersion, dropout
        Of the distribution: variance mean + mean^2 / dispersion, and probability of an additional zero.
    """

    cells: list[dict[str, Any]]
    counts: np.ndarray
    programmes: np.ndarray
    batches: np.ndarray
    means: np.ndarray
    dispersion: float
    dropout: float


def counts_corpus(
    n_cells: int,
    *,
    depth: float = 400.0,
    dispersion: float = 4.0,
    dropout: float = 0.0,
    batch_effect: float = 0.0,
    seed: int = 0,
) -> Counts:
    """Draw cells; the programmes are the same for every seed."""
    profiles = np.random.default_rng(7).gamma(0.4, size=(N_PROGRAMMES, N_GENES)) + 0.05
    profiles /= profiles.sum(1, keepdims=True)
    random = np.random.default_rng(1000 + seed)
    programmes = random.integers(N_PROGRAMMES, size=n_cells)
    batches = random.integers(2, size=n_cells)
    factors = np.exp(batch_effect * np.random.default_rng(8).choice([-1, 1], N_GENES))
    means = depth * profiles[programmes] * np.where(batches[:, None] == 1, factors, 1.0)
    counts = random.poisson(random.gamma(dispersion, means / dispersion))
    counts = counts * (random.random(counts.shape) >= dropout)
    counts[counts.sum(1) == 0, 0] = 1
    cells = []
    for row in range(n_cells):
        genes = np.flatnonzero(counts[row])
        cells.append(
            {
                "cell_id": f"{seed}/{row}",
                "gene_ids": genes,
                "counts": counts[row, genes].astype(np.float32),
                "programme": PROGRAMMES[programmes[row]],
                "batch": BATCHES[batches[row]],
            }
        )
    return Counts(cells, counts, programmes, batches, means, dispersion, dropout)


def log_likelihood(counts: np.ndarray, means: np.ndarray, dispersion: float, dropout: float) -> np.ndarray:
    """Log probability of counts under the generator."""
    from scipy.stats import nbinom

    found = np.log1p(-dropout) + nbinom.logpmf(counts, dispersion, dispersion / (dispersion + means))
    return np.where(counts == 0, np.logaddexp(found, np.log(max(dropout, 1e-300))), found)


def within_programme_variance(values: np.ndarray, programmes: np.ndarray) -> np.ndarray:
    """Squared error of the best prediction that knows the programme, (n_cells, n_genes): from the programme's mean."""
    means = np.stack([values[programmes == number].mean(0) for number in range(N_PROGRAMMES)])
    return (values - means[programmes]) ** 2


# ---------------------------------------------------------------------------------------------------------- sentences


@dataclass(frozen=True)
class Sentences:
    """Cells given as ranked genes.

    Parameters
    ----------
    cells
        With ``input_ids`` and ``cell_id``, and what the generator says of them.
    best
        The best that a model can reach: accuracy, or cross entropy in nats.
    """

    cells: list[dict[str, Any]]
    best: float


def programme_sentences(n_cells: int, *, noise: float = 0.2, length: int = 20, seed: int = 0) -> Sentences:
    """Each programme has a gene for each place; with a probability any gene stands there instead."""
    planted = np.random.default_rng(3).permuted(np.tile(np.arange(N_GENES), (N_PROGRAMMES, 1)), axis=1)[:, :length]
    random = np.random.default_rng(2000 + seed)
    programmes = random.integers(N_PROGRAMMES, size=n_cells)
    genes = planted[programmes]
    replaced = random.random(genes.shape) < noise
    genes = np.where(replaced, random.integers(N_GENES, size=genes.shape), genes)
    cells = [
        {"cell_id": f"{seed}/{row}", "input_ids": genes[row], "programme": PROGRAMMES[programmes[row]]}
        for row in range(n_cells)
    ]
    return Sentences(cells, 1 - noise + noise / N_GENES)


def markov_sentences(n_cells: int, *, length: int = 24, n_next: int = 3, seed: int = 0) -> Sentences:
    """Each gene is followed by one of a few, with unequal probabilities."""
    planted = np.random.default_rng(4)
    followers = np.stack([planted.choice(N_GENES, n_next, replace=False) for _ in range(N_GENES)])
    chances = np.sort(planted.dirichlet(np.ones(n_next), N_GENES), axis=1)
    random = np.random.default_rng(3000 + seed)
    genes = np.empty((n_cells, length), int)
    genes[:, 0] = random.integers(N_GENES, size=n_cells)
    entropy = np.zeros((n_cells, length - 1))
    for place in range(1, length):
        before = genes[:, place - 1]
        chosen = (random.random(n_cells)[:, None] > chances[before].cumsum(1)).sum(1).clip(max=n_next - 1)
        genes[:, place] = followers[before, chosen]
        entropy[:, place - 1] = -(chances[before] * np.log(chances[before])).sum(1)
    cells = [{"cell_id": f"{seed}/{row}", "input_ids": genes[row]} for row in range(n_cells)]
    return Sentences(cells, float(entropy.mean()))


CONDITIONS = ["control", "treated"]


def gene_frequencies() -> np.ndarray:
    """How often each gene is drawn under each condition, (2, n_genes); the conditions overlap in part."""
    drawn = np.random.default_rng(5).gamma(0.5, size=(2, N_GENES)) + 0.02
    return drawn / drawn.sum(1, keepdims=True)


def condition_sentences(n_cells: int, *, length: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Genes are drawn independently, with frequencies that a condition sets."""
    random = np.random.default_rng(4000 + seed)
    frequencies = gene_frequencies()
    cells = []
    for row in range(n_cells):
        condition = int(random.integers(2))
        genes = random.choice(N_GENES, length, p=frequencies[condition])
        cells.append({"cell_id": f"{seed}/{row}", "input_ids": genes, "condition": CONDITIONS[condition]})
    return cells


# ------------------------------------------------------------------------------------------------------------- scores


def nearest_share(vectors: np.ndarray, classes: np.ndarray, k: int = 10) -> float:
    """Share of the k nearest cells by cosine that are of the same class."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    return float((classes[nearest] == classes[:, None]).mean())


def nearest_majority(vectors: np.ndarray, classes: np.ndarray, k: int = 15) -> float:
    """Accuracy of telling the class of a cell by the majority of its k nearest cells by cosine."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = classes[np.argsort(-similarity, axis=1)[:, :k]]
    votes = np.stack([(nearest == number).sum(1) for number in range(classes.max() + 1)], 1)
    return float((votes.argmax(1) == classes).mean())


def decoded_share(vectors: np.ndarray, classes: np.ndarray) -> float:
    """Accuracy of a logistic regression that is fitted on one half of the cells and tried on the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    half = len(vectors) // 2
    scaled = StandardScaler().fit(vectors[:half]).transform(vectors)
    fitted = LogisticRegression(max_iter=500).fit(scaled[:half], classes[:half])
    return float(fitted.score(scaled[half:], classes[half:]))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a positive scores above a negative."""
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), labels.astype(bool)
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))
