"""New genes: old rows and results stay bit by bit, new rows begin sensibly, and what cannot be extended says why."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import torch
from models.examples import Case, every_class, example_of
from transformers import AutoModel, AutoTokenizer

from scfm_hf.errors import CompatibilityError, GeneIdError, VocabularyError
from scfm_hf.models.registry import families
from scfm_hf.training.vocabulary import extend_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer

#: Families whose genes are proteins, and the function that adds some there.
PROTEINS = {"uce": "add_species", "scprint": "add_genes"}
#: Families in which every gene is a part of every cell.
WHOLE_PROFILES = {"scbert"}


@cache
def new_genes(family: str) -> tuple[str, ...]:
    """Genes of the example's cells that its vocabulary lacks, each expressed by a cell."""
    example = example_of(family)
    detected = np.asarray((example.cells.X > 0).sum(axis=0)).ravel()
    names = example.cells.var_names[detected > 0]
    return tuple(name for name in names if name not in example.vocabulary)[:12]


def extended(case: Case, **options: Any) -> tuple[PreTrainedModel, CellTokenizer]:
    model, tokenizer = case.model(), case.example.tokenizer
    statistics = {name: dict.fromkeys(new_genes(case.spec.name), 1.5) for name in tokenizer.statistics}
    options = {"statistics": statistics} | options
    return model, extend_vocabulary(model, tokenizer, new_genes(case.spec.name), **options)


extendable = pytest.mark.parametrize(
    "case",
    [case for case in every_class() if case.spec.name not in {*PROTEINS, *WHOLE_PROFILES}],
    ids=lambda case: case.class_name,
)


@extendable
def test_old_rows_stay_and_cells_without_new_genes_give_the_same(case: Case, tmp_path: Path) -> None:
    before, n_old = case.model(), len(case.example.vocabulary)
    model, tokenizer = extended(case)
    tables = [model.get_input_embeddings().weight, before.get_input_embeddings().weight]
    assert len(tables[0]) == len(tokenizer) == n_old + 12
    assert torch.equal(tables[0][:n_old], tables[1])
    assert model.config.vocabulary_digest == tokenizer.vocabulary_digest != case.example.tokenizer.vocabulary_digest
    known = case.example.cells[:, case.example.cells.var_names.isin(case.example.vocabulary.tokens)]
    encoded = dict(tokenizer(known, padding=True, return_tensors="pt", min_overlap=0.0))
    old = dict(case.example.tokenizer(known, padding=True, return_tensors="pt", min_overlap=0.0))
    for name, value in old.items():
        assert torch.equal(encoded[name], value), name
    inputs = {**old, **case.example.further_inputs(case.class_name, known, old)}
    with torch.no_grad():
        results = [one(**inputs) for one in (before, model)]
    for name in ("last_hidden_state", "cell_embedding"):
        if results[0].get(name) is not None:
            assert torch.equal(results[0][name], results[1][name]), name


@pytest.mark.parametrize("family", [name for name in families() if name not in {*PROTEINS, *WHOLE_PROFILES}])
def test_new_genes_come_into_cells_and_all_is_saved(family: str, tmp_path: Path) -> None:
    case = Case(example_of(family), families()[family].class_names[0])
    model, tokenizer = extended(case)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, again = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.config.vocabulary_digest == again.vocabulary_digest
    cells = case.example.cells
    encoded = dict(again(cells, padding=True, return_tensors="pt", min_overlap=0.0))
    first = next(iter(encoded.values()))
    assert set(again.vocabulary.ids(new_genes(family)).tolist()) & set(first.ravel().tolist())
    inputs = {**encoded, **case.example.further_inputs(case.class_name, cells, encoded)}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).cell_embedding, model.eval()(**inputs).cell_embedding)
        assert torch.isfinite(loaded(**inputs).cell_embedding).all()


@pytest.mark.parametrize("family", PROTEINS)
def test_where_a_gene_is_a_protein_it_says_how_one_is_added(family: str) -> None:
    case = Case(example_of(family), families()[family].class_names[0])
    with pytest.raises(CompatibilityError, match=f"species_{family}.{PROTEINS[family]}"):
        extended(case)


@pytest.mark.parametrize("family", WHOLE_PROFILES)
def test_where_every_gene_is_a_part_of_every_cell_none_is_added(family: str) -> None:
    case = Case(example_of(family), families()[family].class_names[0])
    model = case.model()
    with pytest.raises(CompatibilityError, match="every cell"):
        extend_vocabulary(model, case.example.tokenizer, new_genes(family))
    assert len(model.get_input_embeddings().weight) == len(case.example.vocabulary), "the model was changed"


@pytest.fixture
def case() -> Case:
    return Case(example_of("geneformer"), "GeneformerForMaskedLM")


def rows(model: PreTrainedModel, tokenizer: CellTokenizer, genes: Any) -> np.ndarray:
    return model.get_input_embeddings().weight.detach()[tokenizer.vocabulary.ids(genes)].numpy()


def test_new_rows_are_near_the_mean_of_the_genes_and_no_two_alike(case: Case) -> None:
    model, tokenizer = extended(case)
    genes = case.example.vocabulary.gene_tokens
    known, new = rows(model, tokenizer, genes), rows(model, tokenizer, new_genes("geneformer"))
    assert (np.abs(new - known.mean(0)) < 0.5 * known.std(0) + 1e-6).all()
    assert len(np.unique(new.round(6), axis=0)) == 12
    assert extended(case, seed=1)[0].get_input_embeddings().weight[-1, 0] != model.get_input_embeddings().weight[-1, 0]


def test_new_rows_can_begin_as_those_of_named_genes(case: Case) -> None:
    like = case.example.vocabulary.gene_tokens[3]
    model, tokenizer = extended(case, init={new_genes("geneformer")[0]: [like]})
    spread = rows(model, tokenizer, case.example.vocabulary.gene_tokens).std(0)
    begun = rows(model, tokenizer, [new_genes("geneformer")[0]]) - rows(model, tokenizer, [like])
    assert (np.abs(begun) < 0.5 * spread).all()
    with pytest.raises(VocabularyError, match="does not know"):
        extended(case, init={new_genes("geneformer")[0]: ["ENSG9"]})


def test_new_rows_can_begin_as_those_of_genes_that_go_with_them(case: Case) -> None:
    """A new gene whose counts are those of a known one finds it first."""
    cells = case.example.cells
    random = np.random.default_rng(0)
    counts = random.poisson(2.0, (200, cells.n_vars)).astype(np.float32)
    new, known = new_genes("geneformer")[0], case.example.vocabulary.gene_tokens[5]
    names = cells.var_names
    counts[:, names.get_loc(new)] = counts[:, names.get_loc(known)]
    made = anndata.AnnData(counts, var=cells.var)
    model, tokenizer = extended(case, init="neighbours", cells=made)
    weight = rows(model, tokenizer, case.example.vocabulary.gene_tokens)
    begun, similar = rows(model, tokenizer, [new])[0], rows(model, tokenizer, [known])[0]
    assert np.corrcoef(begun - weight.mean(0), similar - weight.mean(0))[0, 1] > 0.1
    with pytest.raises(ValueError, match="needs cells="):
        extended(case, init="neighbours")


def test_medians_come_from_the_cells(case: Case) -> None:
    cells = case.example.cells
    _, tokenizer = extended(case, statistics=None, cells=cells)
    gene = new_genes("geneformer")[0]
    counts = cells.X.toarray()
    scaled = (counts * (10_000 / counts.sum(1, keepdims=True)))[:, cells.var_names.get_loc(gene)]
    found = tokenizer.statistics["median"][tokenizer.vocabulary.token_to_id[gene]]
    assert found == pytest.approx(np.median(scaled[scaled > 0]), rel=1e-5)
    with pytest.raises(VocabularyError, match="needs the median of every gene"):
        extended(case, statistics=None)


@pytest.mark.parametrize(
    ("genes", "error", "message"),
    [
        ([], VocabularyError, "no gene"),
        (["ENSG00000000001"] * 2, VocabularyError, "more than once"),
        (["known"], VocabularyError, "known to the model already"),
        (["CD3D", "MS4A1", "NKG7"], GeneIdError, "by symbol"),
    ],
)
def test_names_that_cannot_be_added_are_named(genes: list[str], error: Any, message: str, case: Case) -> None:
    genes = [case.example.vocabulary.gene_tokens[0]] if genes == ["known"] else genes
    with pytest.raises(error, match=message):
        extend_vocabulary(case.model(), case.example.tokenizer, genes)


def test_it_trains_on_with_the_new_genes(case: Case) -> None:
    model, tokenizer = extended(case)
    encoded = dict(tokenizer(case.example.cells, padding=True, return_tensors="pt", min_overlap=0.0))
    new = torch.from_numpy(tokenizer.vocabulary.ids(new_genes("geneformer")))
    labels = encoded["input_ids"].masked_fill(~torch.isin(encoded["input_ids"], new), -100)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(20):
        loss = model(**encoded, labels=labels).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
