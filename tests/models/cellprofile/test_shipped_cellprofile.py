"""The model that ships loads by its id without a network, everywhere a hub id does."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from scfm_hf import CellTokenizer, annotate, embed, shipped_models
from scfm_hf.models.cellprofile.configuration_cellprofile import CellProfileConfig
from scfm_hf.models.cellprofile.modeling_cellprofile import CellProfileModel

if TYPE_CHECKING:
    import anndata

MODEL = "scfm_hf/cellprofile-human"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_it_is_listed() -> None:
    assert MODEL in shipped_models()
    assert sum(path.stat().st_size for path in shipped_models()[MODEL].iterdir()) < 12e6


def test_the_auto_classes_and_its_own_load_it_by_its_id() -> None:
    assert AutoConfig.from_pretrained(MODEL).model_type == "scfm-cellprofile"
    model, own = AutoModel.from_pretrained(MODEL), CellProfileModel.from_pretrained(MODEL)
    assert isinstance(model, CellProfileModel)
    assert model.dtype == own.dtype == torch.float32
    assert model.name_or_path == own.name_or_path == MODEL
    assert AutoTokenizer.from_pretrained(MODEL).vocabulary_digest == model.config.vocabulary_digest
    assert CellProfileConfig.from_pretrained(MODEL).vocab_size == model.config.vocab_size
    assert len(CellTokenizer.from_pretrained(MODEL)) == model.config.vocab_size
    head = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=3)
    assert head.fresh_heads == ("classifier",)


def test_a_fresh_process_without_a_network_loads_it() -> None:
    load = f"AutoModel.from_pretrained({MODEL!r})"
    script = f"import scfm_hf; from transformers import AutoModel; print({load}.config.pooling)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["joined"]


def test_its_embedding_is_that_of_the_cell_alone(human_pbmc: anndata.AnnData) -> None:
    vectors = embed(human_pbmc, MODEL, progress=False).obsm["X_cellprofile"]
    alone = embed(human_pbmc[5:6].copy(), MODEL, progress=False).obsm["X_cellprofile"]
    assert vectors.shape == (72, 128 + 64 + AutoConfig.from_pretrained(MODEL).sketch_size)
    assert np.abs(alone - vectors[5:6]).max() < 1e-5
    assert np.allclose(np.linalg.norm(vectors, axis=1), 3**0.5, atol=1e-4)


def test_it_labels_blood_cells_that_it_never_saw(human_pbmc: anndata.AnnData) -> None:
    """The 72 cells are of the set that was left out of its training: half of them label the other half."""
    cells = human_pbmc[human_pbmc.obs["cell_type"] != "unassigned"].copy()
    order = np.random.default_rng(0).permutation(cells.n_obs)
    reference, query = cells[order[::2]].copy(), cells[order[1::2]].copy()
    labelled = annotate(query, MODEL, reference=reference, n_neighbors=5, key_added="told", progress=False)
    told, known = labelled.obs["told_predicted"].astype(str), query.obs["cell_type"].astype(str)
    assert (told == known).mean() > 0.6


def test_names_of_genes_may_be_of_either_kind_with_versions_and_in_any_order(human_pbmc: anndata.AnnData) -> None:
    expected = embed(human_pbmc, MODEL, progress=False).obsm["X_cellprofile"]
    renamed = human_pbmc[:, ::-1].copy()
    renamed.var_names = [f"{name}.{number}" for number, name in enumerate(renamed.var["ensembl_id"].astype(str))]
    del renamed.var["ensembl_id"]
    found = embed(renamed, MODEL, progress=False).obsm["X_cellprofile"]
    assert np.abs(found - expected).max() < 0.02  # A few symbols are those of two ids.


def test_a_panel_of_genes_places_cells_near_where_all_genes_do(human_pbmc: anndata.AnnData) -> None:
    """Every third gene alone: each cell is still nearest to itself, or to a cell of its type."""
    whole = embed(human_pbmc, MODEL, progress=False).obsm["X_cellprofile"]
    panel = embed(human_pbmc[:, ::3].copy(), MODEL, progress=False).obsm["X_cellprofile"]
    types = human_pbmc.obs["cell_type"].astype(str).to_numpy()
    assert (types[(panel @ whole.T).argmax(1)] == types).mean() > 0.9


def test_shallow_cells_stay_with_their_type(human_pbmc: anndata.AnnData) -> None:
    """A quarter of the molecules, some 500 a cell: most are still nearest to a whole cell of their type."""
    cells = human_pbmc[human_pbmc.obs["cell_type"] != "unassigned"].copy()
    whole = embed(cells, MODEL, progress=False).obsm["X_cellprofile"]
    shallow = cells.copy()
    shallow.X.data = np.random.default_rng(0).binomial(cells.X.data.astype(int), 0.25).astype(np.float32)
    shallow.X.eliminate_zeros()
    likeness = embed(shallow, MODEL, progress=False).obsm["X_cellprofile"] @ whole.T
    types = cells.obs["cell_type"].astype(str).to_numpy()
    # Its own whole cell may be second: any of the type will do, but for itself.
    np.fill_diagonal(likeness, -np.inf)
    assert (types[likeness.argmax(1)] == types).mean() > 0.6
