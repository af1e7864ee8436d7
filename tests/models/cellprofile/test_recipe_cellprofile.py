"""The recipe of the model that ships, on planted cells: it runs, learns, and leaves a model that opens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from scipy import sparse
from transformers import AutoModel, AutoTokenizer

from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE = Path(__file__).parents[3] / "scripts" / "cellprofile"
N_GENES, N_CELLS, N_MARKERS = 60, 150, 6
SIZES = {"hidden_size": 16, "output_size": 8, "factor_size": 4, "sketch_size": 12, "vocab_size": N_GENES + 1}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The modules of the recipe, which are scripts beside the package."""
    monkeypatch.syspath_prepend(str(RECIPE))
    names = ("corpus", "gene_choice", "linear_maps", "train", "evaluate", "folds", "measure")
    yield {name: __import__(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def planted(recipe: dict[str, Any], seed: int) -> Any:
    """A study of three types with six marker genes each; the other genes are noise."""
    random = np.random.default_rng(seed)
    types = random.integers(3, size=N_CELLS)
    rates = np.full((3, N_GENES), 3.0)
    for number in range(3):
        rates[number, number * N_MARKERS : (number + 1) * N_MARKERS] = 12
    counts = sparse.csr_matrix(random.poisson(rates[types] * random.gamma(5, 0.2, (N_CELLS, 1))).astype(np.float32))
    totals = np.asarray(counts.sum(1)).ravel()
    labels = np.array(["B", "NK", "DC"])[types]
    return recipe["corpus"].Study(counts, totals, np.ones(N_GENES, bool), labels, np.full(N_CELLS, f"study {seed}"))


def test_genes_that_carry_more_than_noise_are_found(recipe: dict[str, Any]) -> None:
    studies = [planted(recipe, seed) for seed in range(2)]
    choice, _ = recipe["train"].prepare(studies, CellProfileConfig(**SIZES))
    shares = recipe["linear_maps"].signal_share(studies, choice)
    assert shares[: 3 * N_MARKERS].mean() > 2 * shares[3 * N_MARKERS :].mean()


def test_the_recipe_learns_and_its_model_opens_without_a_network(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(recipe["train"], "CELLS_A_STEP", 24)
    studies, config = [planted(recipe, seed) for seed in range(2)], CellProfileConfig(**SIZES)
    choice, maps = recipe["train"].prepare(studies, config)
    model, figures = recipe["train"].train(studies, choice, maps, config, seed=0, steps=40)
    assert figures["last_loss"] < figures["first_loss"]
    assert 0 < figures["waiting"] + figures["training"]

    names = [f"ENSG{number:011d}" for number in range(1, N_GENES + 1)]
    recipe["measure"].save(model.cellprofile, names, choice, tmp_path / "model")
    opened = AutoModel.from_pretrained(tmp_path / "model")
    query = planted(recipe, 7)
    cells = anndata.AnnData(query.counts, var={"ensembl_id": names})
    cells.var_names = names
    batch = AutoTokenizer.from_pretrained(tmp_path / "model")(cells, return_tensors="pt", padding=True)
    found = opened(**batch).cell_embedding.detach().numpy()
    # The tokenizer and the recipe's own way to values agree, to half precision.
    own = recipe["evaluate"].of_model(model.cellprofile, choice)([query])[0]
    np.testing.assert_allclose(found, own, atol=0.01)

    told = recipe["evaluate"].transfer(recipe["evaluate"].of_model(opened, choice), studies[0], query)
    assert told["macro_f1"] > 0.9
    assert abs(np.mean(told["resampled"]) - told["macro_f1"]) < 0.05


def test_every_fold_leaves_out_what_it_labels(recipe: dict[str, Any]) -> None:
    """The set whose cells are labelled is in no training; of a set in parts, that part."""
    for name, fold in recipe["folds"].FOLDS.items():
        sets = recipe["corpus"].SETS
        for _, query in fold.transfers:
            whole = query.partition("@")[0]
            assert whole not in sets or {query, whole} & set(fold.left_out), (name, query)
