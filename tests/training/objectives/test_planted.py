"""Every objective recovers what was planted: as good as the generator allows, by its Bayes rate.

Quick versions train for a second or two, and are allowed to fall short by more; ``full`` ones train longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from training.objectives import planted

from scfm_hf.models.outputs import CellModelOutput
from scfm_hf.training.objectives import Objectives, make_objectives
from scfm_hf.training.objectives.collator import WHOLE
from scfm_hf.training.objectives.heads import EncoderShape, encode
from scfm_hf.training.objectives.likelihoods import distribution, expected_values
from scfm_hf.training.objectives.objective import Seen, make_objective

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scfm_hf.training.objectives.model import EncoderWithObjectives

N_TRAIN, N_TEST = 2000, 500


class Budget:
    """How long a test trains, and how far it may stay from the best."""

    def __init__(self, *, full: bool) -> None:
        self.full = full

    def steps(self, quick: int) -> int:
        return 4 * quick if self.full else quick

    def slack(self, quick: float, full: float) -> float:
        return full if self.full else quick


@pytest.fixture(params=["quick", pytest.param("full", marks=pytest.mark.full)])
def budget(request: pytest.FixtureRequest) -> Budget:
    return Budget(full=request.param == "full")


@pytest.fixture(params=[pytest.param("full", marks=pytest.mark.full)])
def full_budget(request: pytest.FixtureRequest) -> Budget:
    """For what shows nothing in a second or two."""
    return Budget(full=request.param == "full")


@pytest.fixture
def record(record_property: Any) -> Callable[..., None]:
    """Write figures into the report of the run, and to the screen with ``-s``."""

    def write(**figures: float) -> None:
        for name, value in figures.items():
            record_property(name, float(value))
        print({name: round(float(value), 4) for name, value in figures.items()})

    return write


@torch.no_grad()
def evaluated(
    model: EncoderWithObjectives, objectives: Objectives, cells: list[dict[str, Any]], name: str
) -> tuple[Any, Seen, dict[str, Tensor]]:
    """Head, what it sees, and targets, of unseen cells."""
    objectives.collator.set_epoch(0)
    batch = objectives.collator(cells)
    given = batch["inputs"].get(name, batch["inputs"].get(WHOLE))
    embedding = model.get_input_embeddings().weight
    return model.heads[name], Seen(encode(model.encoder, given), given, embedding, False), batch["labels"][name]


# --------------------------------------------------------------------------------------------------------------- genes


def test_masked_genes_are_named_as_often_as_the_noise_allows(budget: Budget, record: Any) -> None:
    corpus, unseen = planted.programme_sentences(N_TRAIN), planted.programme_sentences(N_TEST, seed=1)
    objectives = make_objectives({"masked_gene": {"share": 0.2}}, tokenizer=planted.tokenizer_of_ranks())
    model = planted.train(objectives, planted.encoder_of("geneformer"), corpus.cells, steps=budget.steps(120))
    batch = objectives.collator(unseen.cells)
    labels = batch["labels"]["masked_gene"]["labels"]
    # Where the mask stands: a gene that was left in place gives itself away.
    asked = (labels != -100) & (batch["inputs"]["masked_gene"]["input_ids"] == objectives.tokenizer.mask_token_id)
    with torch.no_grad():
        logits = model.own_model("masked_gene")(**batch["inputs"]["masked_gene"]).logits
    accuracy = (logits.argmax(-1) == labels)[asked].float().mean().item()
    record(accuracy=accuracy, bayes=unseen.best)
    assert accuracy == pytest.approx(unseen.best, abs=budget.slack(0.06, 0.03))


@pytest.mark.parametrize("family", ["tgpt", pytest.param("geneformer", marks=pytest.mark.full)])
def test_the_next_gene_costs_the_conditional_entropy(family: str, budget: Budget, record: Any) -> None:
    corpus, unseen = planted.markov_sentences(N_TRAIN), planted.markov_sentences(N_TEST, seed=1)
    objectives = make_objectives(["next_gene"], tokenizer=planted.tokenizer_of_ranks())
    encoder = planted.encoder_of(family, embedding_layer=-1)
    # A cell teaches a causal encoder at every place, another one at a single place.
    n_steps = budget.steps(120 if family == "tgpt" else 200)
    model = planted.train(objectives, encoder, corpus.cells, steps=n_steps, learning_rate=1e-2)
    with torch.no_grad():
        loss = model(**objectives.collator(unseen.cells)).loss.item()
    record(cross_entropy=loss, entropy=unseen.best)
    assert unseen.best - 0.05 < loss < unseen.best + budget.slack(0.15, 0.05)


def test_genes_are_drawn_as_the_metadata_token_says(full_budget: Budget, record: Any) -> None:
    from scfm_hf.training.objectives.metadata_tokens import add_metadata_tokens, token_ids

    tokenizer, encoder = planted.tokenizer_of_ranks(), planted.encoder_of("geneformer")
    columns = {"condition": planted.CONDITIONS}
    add_metadata_tokens(tokenizer, encoder, columns)
    options = {"columns": ["condition"], "share": 0.4, "metadata_share": 0.3}
    objectives = make_objectives({"metadata_tokens": options}, tokenizer=tokenizer, columns=columns)
    model = planted.train(objectives, encoder, planted.condition_sentences(N_TRAIN), steps=full_budget.steps(200))
    tokens = token_ids(tokenizer, "condition", planted.CONDITIONS)
    prompts = torch.full((2, 17), tokenizer.mask_token_id)
    prompts[:, 0] = torch.from_numpy(tokens)
    genes = slice(planted.N_GENES)
    with torch.no_grad():
        logits = model.own_model("metadata_tokens")(input_ids=prompts).logits[:, 1:, genes]
    drawn = logits.softmax(-1).mean(1).numpy()
    wanted = planted.gene_frequencies()
    far = 0.5 * np.abs(drawn - wanted).sum(1)
    apart = 0.5 * np.abs(wanted[0] - wanted[1]).sum()
    record(total_variation=far.max(), of_the_other_condition=apart)
    assert far.max() < 0.2 * apart


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("own_head", [True, False])
def test_masked_values_come_as_near_as_the_programme_allows(own_head: bool, full_budget: Budget, record: Any) -> None:
    corpus, unseen = planted.counts_corpus(N_TRAIN), planted.counts_corpus(N_TEST, seed=1)
    objectives = make_objectives({"masked_value": {"own_head": own_head}}, tokenizer=planted.tokenizer_of_values())
    encoder = planted.encoder_of("scgpt", mvc_style=None)
    model = planted.train(objectives, encoder, corpus.cells, steps=full_budget.steps(150 if own_head else 300))
    # What a token's value is: its log, given that the gene is expressed.
    values = np.log1p(unseen.counts / unseen.counts.sum(1, keepdims=True) * 1e3)
    expressed = unseen.counts > 0
    bayes, plain = (_error_where(values, expressed, by) for by in (unseen.programmes, np.zeros(N_TEST, int)))
    batch = objectives.collator(unseen.cells)
    targets, given = batch["labels"]["masked_value"], batch["inputs"]["masked_value"]
    with torch.no_grad():
        if own_head:
            predicted = model.own_model("masked_value")(**given).predicted_values
        else:
            head, seen, _ = evaluated(model, objectives, unseen.cells, "masked_value")
            predicted = head(seen)[..., 0]
    error = (predicted - targets["values"])[targets["hidden"]].square().mean().item()
    record(error=error, bayes=bayes, without_programme=plain)
    # The general head is slower to leave the gene's own mean.
    assert error < bayes + (0.1 if own_head else 0.35) * (plain - bayes)


def _error_where(values: np.ndarray, counted: np.ndarray, groups: np.ndarray) -> float:
    """Mean squared error of predicting each gene by its mean in a cell's group, over the entries that count."""
    total = 0.0
    for group in np.unique(groups):
        rows = groups == group
        weights = counted[rows]
        means = (values[rows] * weights).sum(0) / np.maximum(weights.sum(0), 1)
        total += (((values[rows] - means) ** 2) * weights).sum()
    return total / counted.sum()


@pytest.mark.parametrize("name", ["masked_value", pytest.param("bottleneck", marks=pytest.mark.full)])
def test_counts_cost_as_much_as_under_the_generator(name: str, budget: Budget, record: Any) -> None:
    loss, entropy, means, found = _fitted_counts({name: {"likelihood": "nb", "share": 0.25}}, 0.0, budget)
    ratio = found["mean"].numpy() / means
    off = np.median(np.abs(np.log(ratio)))
    record(nll=loss, entropy=entropy, median_mean_ratio=np.median(ratio), median_log_error=off)
    assert loss < entropy + budget.slack(0.2, 0.08)
    # From an embedding of the cell itself its own counts can be told too, not their means alone.
    assert off < (0.25 if name == "bottleneck" else budget.slack(0.25, 0.15))


def test_the_rate_of_additional_zeros_is_recovered(full_budget: Budget, record: Any) -> None:
    dropout = 0.3
    described = {"masked_value": {"likelihood": "zinb", "share": 0.25}}
    loss, entropy, means, found = _fitted_counts(described, dropout, full_budget)
    # Only where the mean is large are additional zeros told from others.
    rate = found["zero_logits"].sigmoid().numpy()[means > 20].mean()
    record(nll=loss, entropy=entropy, dropout=rate, planted=dropout)
    assert rate == pytest.approx(dropout, abs=0.03)
    assert loss < entropy + 0.15


def _fitted_counts(
    described: dict[str, Any], dropout: float, budget: Budget
) -> tuple[float, float, np.ndarray, dict[str, Tensor]]:
    """Loss of unseen cells, entropy of the generator, true means, and the distributions that the head gives."""
    options = {"depth": 2000.0, "dropout": dropout}
    corpus, unseen = planted.counts_corpus(N_TRAIN, **options), planted.counts_corpus(N_TEST, seed=1, **options)
    objectives = make_objectives(described, tokenizer=planted.tokenizer_of_profiles())
    model = planted.train(objectives, planted.encoder_of("scimilarity"), corpus.cells, steps=budget.steps(200))
    ((name, options_of),) = described.items()
    head, seen, targets = evaluated(model, objectives, unseen.cells, name)
    with torch.no_grad():
        loss = model(**objectives.collator(unseen.cells)).loss.item()
        scores = head(seen.outputs.cell_embedding, targets["query_ids"])
    means = np.take_along_axis(unseen.means, targets["query_ids"].numpy(), 1)
    entropy = -planted.log_likelihood(targets["values"].numpy(), means, unseen.dispersion, dropout).mean()
    zero_inflated = options_of["likelihood"] == "zinb"
    return loss, float(entropy), means, distribution(scores, targets["depth"], zero_inflated=zero_inflated)


def test_denoised_counts_are_nearer_to_the_true_means_than_the_thinned_ones(full_budget: Budget, record: Any) -> None:
    corpus, unseen = planted.counts_corpus(N_TRAIN), planted.counts_corpus(N_TEST, seed=1)
    objectives = make_objectives({"denoising": {"share": 0.6}}, tokenizer=planted.tokenizer_of_values())
    model = planted.train(objectives, planted.encoder_of("scgpt"), corpus.cells, steps=full_budget.steps(150))
    head, seen, targets = evaluated(model, objectives, unseen.cells, "denoising")
    with torch.no_grad():
        expected = expected_values("nb", head(seen), targets["depth"])
    thinned = torch.expm1(seen.inputs["values"].clamp(min=0))
    shares = thinned / thinned.sum(1, keepdim=True)
    totals = torch.tensor(unseen.counts.sum(1), dtype=torch.float32)
    counted = targets["counted"]
    genes = seen.inputs["input_ids"].clamp(max=planted.N_GENES - 1).numpy()
    means = torch.tensor(np.take_along_axis(unseen.means, genes, 1))

    def error(predicted: Tensor) -> float:
        return float((predicted.clamp(min=0.1).log() - means.log())[counted].square().mean())

    record(denoised=error(expected), thinned=error(shares * totals[:, None]), whole=error(targets["values"]))
    assert error(expected) < 0.6 * error(shares * totals[:, None])
    assert error(expected) < error(targets["values"])


def test_full_depth_is_recovered_from_a_shallow_cell(full_budget: Budget, record: Any) -> None:
    corpus, unseen = planted.counts_corpus(N_TRAIN), planted.counts_corpus(N_TEST, seed=1)
    options = {"min_depth": 50, "probability": 0.8, "value_share": 0.3, "zero_share": 0.3}
    objectives = make_objectives({"read_depth": options}, tokenizer=planted.tokenizer_of_profiles())
    model = planted.train(objectives, planted.encoder_of("scimilarity"), corpus.cells, steps=full_budget.steps(200))
    head, seen, targets = evaluated(model, objectives, unseen.cells, "read_depth")
    with torch.no_grad():
        predicted = head(seen.outputs.cell_embedding, targets["query_ids"], targets["depths"])[..., 0].numpy()
    values = np.log1p(unseen.counts / unseen.counts.sum(1, keepdims=True) * 1e4)
    means = np.stack([values[unseen.programmes == number].mean(0) for number in range(planted.N_PROGRAMMES)])
    genes = (targets["query_ids"].numpy()).clip(min=0)
    counted = targets["counted"].numpy()
    true = means[unseen.programmes[:, None], genes]
    best = (targets["values"].numpy() - true)[counted]
    error = (targets["values"].numpy() - predicted)[counted]
    correlation = np.corrcoef(true[counted], predicted[counted])[0, 1]
    record(error=(error**2).mean(), bayes=(best**2).mean(), correlation=correlation)
    assert correlation > 0.95
    assert (error**2).mean() < 1.15 * (best**2).mean()


@pytest.mark.parametrize("family", ["scgpt", "scimilarity"])
def test_generated_values_come_as_near_as_the_programme_allows(family: str, full_budget: Budget, record: Any) -> None:
    corpus, unseen = planted.counts_corpus(N_TRAIN), planted.counts_corpus(N_TEST, seed=1)
    own = family == "scgpt"
    tokenizer = planted.tokenizer_of_values() if own else planted.tokenizer_of_profiles()
    encoder = planted.encoder_of(family, **({"generative": True, "mvc_style": None} if own else {}))
    objectives = make_objectives(["generative"], tokenizer=tokenizer)
    model = planted.train(objectives, encoder, corpus.cells, steps=full_budget.steps(150))
    assert bool(model._own_models) == own
    with torch.no_grad():
        loss = model(**objectives.collator(unseen.cells)).loss.item()
    values = np.log1p(unseen.counts / unseen.counts.sum(1, keepdims=True) * (1e3 if own else 1e4))
    expressed = unseen.counts > 0
    bayes, plain = (_error_where(values, expressed, by) for by in (unseen.programmes, np.zeros(N_TEST, int)))
    record(error=loss, bayes=bayes, without_programme=plain)
    # All that the general head knows has to go through the cell embedding.
    assert loss < bayes + (0.1 if own else 0.3) * (plain - bayes)


def test_expressed_genes_are_told_as_well_as_their_probability_tells_them(budget: Budget, record: Any) -> None:
    options = {"depth": 60.0}
    corpus, unseen = planted.counts_corpus(N_TRAIN, **options), planted.counts_corpus(N_TEST, seed=1, **options)
    described = {"binary_expression": {"share": 0.3, "n_queries": 12}}
    objectives = make_objectives(described, tokenizer=planted.tokenizer_of_profiles())
    model = planted.train(objectives, planted.encoder_of("scimilarity"), corpus.cells, steps=budget.steps(120))
    head, seen, targets = evaluated(model, objectives, unseen.cells, "binary_expression")
    with torch.no_grad():
        logits = head(seen.outputs.cell_embedding, targets["query_ids"])[..., 0].numpy()
    labels, genes = targets["labels"].numpy(), (targets["query_ids"].numpy()).clip(min=0)
    asked = labels >= 0
    means = np.take_along_axis(unseen.means, genes, 1)
    zero = np.exp(planted.log_likelihood(np.zeros_like(means), means, unseen.dispersion, 0.0))
    got, bayes = (planted.auc(scores[asked], labels[asked]) for scores in (logits, np.log(1 - zero) - np.log(zero)))
    record(auc=got, bayes=bayes)
    assert got > bayes - budget.slack(0.04, 0.015)


# --------------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("contrastive", {"view": "genes"}),
        pytest.param("contrastive", {"view": "counts"}, marks=pytest.mark.full),
        ("triplets", {"column": "programme"}),
    ],
)
def test_cells_of_one_programme_are_nearest(name: str, options: dict[str, Any], budget: Budget, record: Any) -> None:
    settings = {"depth": 40.0, "batch_effect": 0.6}
    corpus, unseen = planted.counts_corpus(N_TRAIN, **settings), planted.counts_corpus(N_TEST, seed=1, **settings)
    columns = {"programme": planted.PROGRAMMES}
    objectives = make_objectives({name: options}, tokenizer=planted.tokenizer_of_profiles(), columns=columns)
    encoder = planted.encoder_of("scimilarity")
    before = planted.nearest_share(
        planted.embed(objectives.model(encoder).eval(), objectives, unseen.cells), unseen.programmes
    )
    model = planted.train(objectives, encoder, corpus.cells, steps=budget.steps(80))
    got = planted.nearest_share(planted.embed(model, objectives, unseen.cells), unseen.programmes)
    record(nearest_of_same_programme=got, before=before)
    assert got > budget.slack(0.93, 0.97)


def test_labels_are_told_as_often_as_their_noise_allows(budget: Budget, record: Any) -> None:
    noise = 0.2
    corpus, unseen = (planted.counts_corpus(n_cells, seed=seed) for n_cells, seed in ((N_TRAIN, 0), (N_TEST, 1)))
    random = np.random.default_rng(9)
    for cell in [*corpus.cells, *unseen.cells]:
        programme = planted.PROGRAMMES.index(cell["programme"])
        noisy = random.integers(planted.N_PROGRAMMES) if random.random() < noise else programme
        cell["noisy"] = planted.PROGRAMMES[noisy]
        # Half of the cells have no parity that is known.
        cell["parity"] = None if random.random() < 0.5 else str(programme % 2)
    columns = {"noisy": planted.PROGRAMMES, "parity": ["0", "1"]}
    described = {"multi_task": {"columns": ["noisy", "parity"]}}
    objectives = make_objectives(described, tokenizer=planted.tokenizer_of_profiles(), columns=columns)
    model = planted.train(objectives, planted.encoder_of("scimilarity"), corpus.cells, steps=budget.steps(80))
    head, seen, targets = evaluated(model, objectives, unseen.cells, "multi_task")
    with torch.no_grad():
        noisy, parity = (scores.argmax(1) for scores in head(seen.outputs.cell_embedding))
    known = targets["parity"] != -100
    accuracy = (noisy == targets["noisy"]).float().mean().item()
    of_known = (parity == targets["parity"])[known].float().mean().item()
    bayes = 1 - noise + noise / planted.N_PROGRAMMES
    record(accuracy=accuracy, bayes=bayes, parity=of_known)
    assert accuracy == pytest.approx(bayes, abs=0.05)
    assert of_known > 0.97


def test_the_batch_leaves_the_embedding_and_the_programme_stays(full_budget: Budget, record: Any) -> None:
    """Over a plain network: large batches of many steps, which an encoder of tokens would need minutes for."""
    settings = {"batch_effect": 0.5}
    corpus, unseen = planted.counts_corpus(N_TRAIN, **settings), planted.counts_corpus(N_TEST, seed=1, **settings)
    decoded = {strength: _embedded_against_batches(corpus, unseen, strength, full_budget) for strength in (0.0, 1.0)}
    found = {
        name: [planted.decoded_share(vectors, numbers), planted.nearest_majority(vectors, numbers)]
        for name, vectors, numbers in (
            ("without", decoded[0.0], unseen.batches),
            ("batch", decoded[1.0], unseen.batches),
            ("programme", decoded[1.0], unseen.programmes),
        )
    }
    for name, (linear, nearest) in found.items():
        record(**{f"{name}_linear": linear, f"{name}_nearest": nearest})
    assert min(found["without"]) > 0.7
    assert max(found["batch"]) < 0.65
    assert min(found["programme"]) > 0.97


def _embedded_against_batches(
    corpus: planted.Counts, unseen: planted.Counts, strength: float, budget: Budget
) -> np.ndarray:
    """Embeddings of unseen cells, trained to tell the programme and, by the objective, not the batch."""
    classes = {"batch": planted.BATCHES, "programme": planted.PROGRAMMES}
    shape = EncoderShape(
        embedding_size=16, state_size=None, vocab_size=0, gene_size=None, hides_values=False, classes=classes
    )
    objectives = [
        make_objective("adversarial_batch", {"column": "batch", "strength": strength}),
        make_objective("multi_task", {"columns": ["programme"]}),
    ]
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(planted.N_GENES, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    heads = [one.head(shape) for one in objectives]
    optimiser = torch.optim.AdamW([one for part in (encoder, *heads) for one in part.parameters()], 1e-3)
    n_steps = budget.steps(300)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=n_steps, pct_start=0.2)
    values, of_unseen = (
        torch.tensor(np.log1p(part.counts / part.counts.sum(1, keepdims=True) * 1e3), dtype=torch.float32)
        for part in (corpus, unseen)
    )
    batches, programmes = torch.tensor(corpus.batches), torch.tensor(corpus.programmes)
    for _ in range(n_steps):
        rows = torch.randint(len(values), (256,))
        seen = Seen(CellModelOutput(cell_embedding=encoder(values[rows])), {}, None, True)
        targets = [{"classes": batches[rows]}, {"programme": programmes[rows]}]
        losses = [one.loss(head, seen, target) for one, head, target in zip(objectives, heads, targets, strict=True)]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return encoder(of_unseen).numpy()
