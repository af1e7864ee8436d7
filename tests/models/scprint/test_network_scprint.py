"""Networks from queries and keys; steps of pretraining; genes of a new species."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from models.examples import Case, example_of
from transformers import AutoModel, AutoTokenizer

from scfm_hf.errors import VocabularyError
from scfm_hf.models.scprint.genes_scprint import genome_positions, position_vectors
from scfm_hf.models.scprint.network_scprint import GeneNetwork
from scfm_hf.models.scprint.species_scprint import add_genes
from scfm_hf.models.scprint.training_scprint import drawn_passes, pretraining_step
from scfm_hf.tokenization.draws import CellDraws

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = example_of("scprint")
BASE, WHOLE = Case(EXAMPLE, "ScPrintModel"), Case(EXAMPLE, "ScPrintForPreTraining")


def collected(*batches: dict[str, torch.Tensor], **options: Any) -> GeneNetwork:
    made = GeneNetwork(BASE.model(), **options)
    for batch in batches or (BASE.inputs(),):
        made.update(**batch)
    return made


# ------------------------------------------------------------------------------------------------------------- network


def test_a_network_is_of_the_genes_that_were_seen() -> None:
    inputs = BASE.inputs()
    made = collected()
    seen = inputs["input_ids"][inputs["attention_mask"] == 1].unique()
    assert torch.equal(made.gene_ids, seen), "padding is no gene"
    assert made.network().shape == (len(seen), len(seen))
    assert made.network(heads="none").shape == (len(seen), len(seen), 4)
    assert collected(layers=[1]).network(heads="none").shape[-1] == 2


def test_genes_of_the_network_can_be_chosen() -> None:
    whole, chosen = collected(), collected().gene_ids[::3]
    part = collected(genes=chosen)
    assert torch.equal(part.gene_ids, chosen)
    scores = whole.network(weighting="none")[::3, ::3]
    assert torch.allclose(part.network(weighting="none"), scores), "others take part in the cells all the same"


def test_cells_may_come_in_any_batches() -> None:
    single = [BASE.inputs([row]) for row in range(len(BASE.inputs()["depth"]))]
    assert torch.allclose(collected().network(), collected(*single).network(), atol=1e-6)


def test_weights_are_what_they_are_called() -> None:
    made = collected()
    weights = made.weights("softmax")
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]))
    balanced = made.weights("sinkhorn")
    n_tokens = balanced.shape[-1]
    assert torch.allclose(balanced.sum(1), torch.full((4, n_tokens), 8 / n_tokens), atol=1e-4)
    symmetric = made.network(symmetric=True)
    assert torch.allclose(symmetric, symmetric.T)
    assert torch.equal(made.network(heads="max"), made.network(heads="none").amax(-1))


def test_weak_weights_can_be_cut() -> None:
    made = collected()
    n_tokens = made.weights().shape[-1]
    cut = made.network(threshold=True)
    assert ((cut == 0) | (cut >= 1 / n_tokens)).all()
    assert ((made.network(top=3) > 0).sum(1) <= 3).all()


def test_what_cannot_be_asked_of_a_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"layers=\[7\]"):
        GeneNetwork(BASE.model(), layers=[7])
    with pytest.raises(ValueError, match="update"):
        GeneNetwork(BASE.model()).network()
    with pytest.raises(ValueError, match="weighting='sum'"):
        collected().network(weighting="sum")
    with pytest.raises(ValueError, match="heads='sum'"):
        collected().network(heads="sum")


# ---------------------------------------------------------------------------------------------------- pretraining step


def test_draws_are_the_cells_own_and_of_the_size_that_is_asked_for() -> None:
    values = torch.full((3, 400), 20.0)
    hidden, thinned = drawn_passes(values, draws=CellDraws(1), cell_ids=["a", "b", "c"], masked=0.3, thinned=0.6)
    assert hidden.masked.sum(1).tolist() == [120] * 3
    left = thinned.values.sum(1) / values.sum(1)
    # What Poisson draws leave, times the share of genes that are not emptied.
    assert ((left - 0.67**2).abs() < 0.1).all()
    (alone, _) = drawn_passes(values[:1], draws=CellDraws(1), cell_ids=["b"])
    assert torch.equal(alone.masked[0], hidden.masked[1])
    weights = torch.ones(3, 400).index_fill(1, torch.arange(100), 1e6)
    (likely,) = drawn_passes(values, draws=CellDraws(1), cell_ids="abc", masked=0.2, thinned=None, weights=weights)
    assert likely.masked[:, :100].sum(1).tolist() == [80] * 3


@pytest.mark.parametrize("layout", [{}, {"cell_blocks": True, "depth_token": False}], ids=["together", "apart"])
def test_a_step_has_a_pass_each_and_lowers_the_loss(layout: dict[str, Any]) -> None:
    model = WHOLE.model(**layout).train()
    batch = {**WHOLE.inputs(), "class_ids": WHOLE.labelled()["class_ids"]}
    passes = drawn_passes(batch["values"], draws=CellDraws(0), cell_ids=range(len(batch["values"])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss, terms = pretraining_step(model, batch, passes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {name.split(".")[0] for name in terms} == {"full", "mask", "denoise", "generation", "contrast"}
    assert "full.expression" not in terms
    assert losses[-1] < losses[0]


# --------------------------------------------------------------------------------------------------------- new species


def test_close_neighbours_share_a_position() -> None:
    starts = [50_000, 100, 9_000, 18_000, 100]
    assert genome_positions(["1", "1", "1", "1", "2"], starts).tolist() == [2, 1, 1, 1, 3]


def test_positions_are_those_of_the_authors(shared_dir: Path) -> None:
    table = pd.read_csv(shared_dir / "vocabularies/scprint/gene_positions.tsv.gz", sep="\t", dtype={"chromosome": str})
    known = table[(table["position_id"] > 0) & table["ensembl_id"].str.match(r"ENS(MUS)?G\d")]
    for _, genes in known.groupby(known["ensembl_id"].str.startswith("ENSG")):
        found = genome_positions(genes["chromosome"].fillna(""), genes["start"])
        assert (found == genes["position_id"]).all()


def new_genes(n_genes: int = 5, width: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [f"ENSDARG{number:011d}" for number in range(n_genes)]
    vectors = pd.DataFrame(np.random.default_rng(0).normal(size=(n_genes, width)), index=names)
    places = pd.DataFrame({"chromosome": "1", "start": np.arange(n_genes) * 20_000}, index=names)
    return vectors, places


def test_a_model_reads_cells_of_a_new_species(tmp_path: Path) -> None:
    model, (vectors, places) = BASE.model(), new_genes()
    before = BASE.model()(**BASE.inputs()).cell_embedding
    tokenizer = add_genes(model, EXAMPLE.tokenizer, vectors=vectors, places=places, taxon=7955, species="zebrafish")
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded, tokenizer = AutoModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded(**BASE.inputs()).cell_embedding, before), "what it knew is as it was"
    assert loaded.config.vocabulary_digest == tokenizer.vocabulary_digest
    fish = anndata.AnnData(np.eye(5, dtype=np.float32) + 1)
    fish.var_names = vectors.index
    batch = tokenizer(fish, padding=True, return_tensors="pt")
    assert (batch["input_ids"] >= len(EXAMPLE.vocabulary)).all()
    assert loaded(**batch).cell_embedding.isfinite().all()
    squeezed = torch.nn.functional.adaptive_avg_pool1d(torch.tensor(vectors.to_numpy(np.float32))[None], 16)[0]
    new = torch.arange(5) + len(EXAMPLE.vocabulary)
    assert torch.allclose(loaded.genes.proteins(new), squeezed, atol=1e-6)
    assert np.allclose(loaded.genes.positions(new), position_vectors([1, 2, 3, 4, 5], 16))


def test_genes_that_cannot_be_added_are_named() -> None:
    vectors, places = new_genes()
    known = EXAMPLE.vocabulary.tokens[0]
    hole = vectors.copy()
    hole.iloc[2, 3] = np.nan
    for given, where, message in (
        (vectors.rename(index={vectors.index[0]: known}), places, f"known to the model.*{known}"),
        (vectors, places.iloc[1:], f"no place.*{vectors.index[0]}"),
        (pd.concat([vectors, vectors[:1]]), places, "more than once"),
        (hole, places, f"not finite.*{vectors.index[2]}"),
    ):
        with pytest.raises(VocabularyError, match=message):
            add_genes(BASE.model(), EXAMPLE.tokenizer, vectors=given, places=where, taxon=7955, species="zebrafish")
    with pytest.raises(ValueError, match="too few"):
        add_genes(
            BASE.model(), EXAMPLE.tokenizer, vectors=vectors.iloc[:, :3], places=places, taxon=7955, species="zebrafish"
        )


def test_the_table_may_be_wider_than_the_model(tmp_path: Path) -> None:
    model = BASE.model(gene_vector_size=48)
    model.save_pretrained(tmp_path)
    rows = model.genes.vectors(torch.arange(5))
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.allclose(loaded.genes.proteins(torch.arange(5)), rows.unflatten(1, (16, 3)).mean(-1), atol=1e-6)
