"""UCE's sentences: genes drawn by expression, set out chromosome by chromosome."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pytest
from models.examples import example_of

from scfm_hf.errors import GeneIdError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.uce.genes_uce import SPECIAL_TOKENS
from scfm_hf.models.uce.queries_uce import split_genes
from scfm_hf.models.uce.tokenization_uce import sampling_weights
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.tokenization.draws import CellDraws


@pytest.fixture(scope="module")
def tokenizer() -> CellTokenizer:
    return example_of("uce").tokenizer


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return example_of("uce").cells


def columns(tokenizer: CellTokenizer, cells: anndata.AnnData, **options: Any) -> dict[str, Any]:
    return dict(tokenizer.encode_cells(cells, **options).columns)


def test_a_sentence_holds_each_chromosome_with_its_genes_by_start(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    for sentence in columns(tokenizer, cells)["input_ids"].to_list():
        assert sentence[0] == tokenizer.cls_token_id
        text = tokenizer.convert_ids_to_tokens(sentence)
        begins = [place for place, token in enumerate(text) if token.startswith("<chromosome:")]
        ends = [place for place, token in enumerate(text) if token == "<chromosome_end>"]
        assert begins == [1, *(end + 1 for end in ends[:-1])]
        assert ends[-1] == len(sentence) - 1
        for begin, end in zip(begins, ends, strict=True):
            genes = np.array(sentence[begin + 1 : end])
            assert (tokenizer.statistics["chromosome"][genes] == sentence[begin]).all()
            assert (np.diff(tokenizer.statistics["start"][genes]) >= 0).all()
        assert len(set(np.array(sentence)[begins])) == len(begins)


def test_only_expressed_genes_are_drawn_and_all_draws_are_set_out(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    found = columns(tokenizer, cells, return_columns=("drawn_ids",))
    for row in range(cells.n_obs):
        drawn = found["drawn_ids"].row(row)
        assert len(drawn) == 24
        placed = tokenizer.statistics["start"][found["input_ids"].row(row)]
        assert sorted(found["input_ids"].row(row)[np.isfinite(placed)]) == sorted(drawn)
        expressed = set(cells.var_names[cells.X[row].toarray().ravel() > 0])
        assert {token.removeprefix("human:") for token in tokenizer.convert_ids_to_tokens(drawn)} <= expressed


def test_a_context_too_short_keeps_the_first_draws(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    whole = columns(tokenizer, cells, return_columns=("drawn_ids",))["drawn_ids"]
    short = columns(tokenizer, cells, return_columns=("drawn_ids",), max_length=15)
    assert short["input_ids"].lengths.max() <= 15
    for row in range(cells.n_obs):
        assert short["drawn_ids"].row(row).tolist() == whole.head(len(short["drawn_ids"].row(row))).row(row).tolist()
    with pytest.raises(ValueError, match="leaves no place for a gene"):
        columns(tokenizer, cells, max_length=3)


def test_draws_belong_to_the_cell_and_the_seed(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    whole = columns(tokenizer, cells)["input_ids"]
    alone = columns(tokenizer, cells[[3]])["input_ids"]
    assert alone.row(0).tolist() == whole.row(3).tolist()
    assert columns(tokenizer, cells, seed=1)["input_ids"] != whole


def test_letter_case_does_not_matter_and_another_species_is_refused(
    tokenizer: CellTokenizer, cells: anndata.AnnData
) -> None:
    lower = cells.copy()
    lower.var_names = lower.var_names.str.lower()
    assert columns(tokenizer, lower, min_overlap=0)["input_ids"] == columns(tokenizer, cells)["input_ids"]
    with pytest.raises(ValueError, match=r"no genes of 'mouse'. It has those of: human"):
        columns(tokenizer, cells, species="mouse")
    unknown = cells.copy()
    unknown.var_names = [f"human:{name}" for name in cells.var_names]
    with pytest.raises(GeneIdError, match="gene symbols such as [A-Z]"):
        columns(tokenizer, unknown)


def test_counts_weigh_by_their_logarithm_and_fractions_are_cut() -> None:
    assert np.allclose(sampling_weights([1, 3, 3.9]), np.array([1, 2, 2]) / 5)


def test_withheld_genes_are_asked_for_and_not_drawn(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    found = columns(tokenizer, cells, withheld_share=0.4, n_queries=6)
    assert found["query_ids"].shape == found["labels"].shape == (cells.n_obs, 6)
    for row in range(cells.n_obs):
        expressed = set(cells.var_names[cells.X[row].toarray().ravel() > 0])
        for asked, label in zip(found["query_ids"][row], found["labels"][row], strict=True):
            if label >= 0:
                name = tokenizer.convert_ids_to_tokens(int(asked)).removeprefix("human:")
                assert (name in expressed) == label
                assert asked not in found["input_ids"].row(row)
    assert (found["labels"] == 1).any(1).all()
    assert (found["labels"] == 0).sum(1).tolist() == [3] * cells.n_obs


@pytest.mark.parametrize(("n_expressed", "n_genes"), [(0, 5), (1, 1), (4, 4), (3, 40)])
def test_genes_are_split_however_few_there_are(n_expressed: int, n_genes: int) -> None:
    split = split_genes(np.arange(n_expressed), n_genes, share=0.5, n_queries=8, stream=CellDraws().cell("a"))
    assert len(split.queries) == len(split.labels) == 8
    assert len(split.kept) >= min(n_expressed, 1)
    withheld = set(range(n_expressed)) - set(split.kept.tolist())
    assert set(split.queries[split.labels == 1].tolist()) <= withheld
    assert (split.queries[split.labels == 0] >= n_expressed).all()


def test_options_that_cannot_be_are_refused(tokenizer: CellTokenizer, cells: anndata.AnnData) -> None:
    for option in ({"sample_size": 0}, {"n_queries": -1}, {"withheld_share": 1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            columns(tokenizer, cells, **option)


def test_genes_of_a_species_that_was_not_named_are_refused_with_the_word_that_is_missing() -> None:
    symbols = {"human": ["CD4", "CD3D", "MS4A1"], "mouse": ["Cd4", "Cd3d", "Ms4a1"]}
    genes = [f"{species}:{symbol}" for species, named in symbols.items() for symbol in named]
    special = SPECIAL_TOKENS.values()
    vocabulary = GeneVocabulary(
        [*special, *genes, "<chromosome:1>"],
        special_tokens=SPECIAL_TOKENS,
        id_kind="symbol",
        species=tuple(symbols),
    )
    places = {"chromosome": len(vocabulary) - 1.0, "start": 5.0}
    statistics = {
        name: np.array([np.nan] * len(special) + [place] * len(genes) + [np.nan]) for name, place in places.items()
    }
    made = CellTokenizer.from_vocabulary(vocabulary, scheme="uce", statistics=statistics, case_sensitive=False)
    of_mouse = anndata.AnnData(np.ones((1, 3), np.float32))
    of_mouse.var_names = symbols["mouse"]
    with pytest.raises(GeneIdError, match=r'those of mouse, and .* asked for those of human. .*species="mouse"'):
        made(of_mouse)
    drawn = made(of_mouse, species="mouse")["input_ids"][0]
    assert {made.convert_ids_to_tokens(token) for token in drawn} & set(genes) <= set(genes[3:])
