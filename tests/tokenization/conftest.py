"""A tokenizer of each scheme over the genes of real cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from scfm_hf.genes import GeneVocabulary
from scfm_hf.tokenization import CellTokenizer

N_GENES = 500
SPECIAL = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}


@pytest.fixture(scope="session")
def cells() -> anndata.AnnData:
    """24 blood cells over the 600 genes that most of them express; not to be changed."""
    everything = anndata.read_h5ad(Path(__file__).parents[1] / "data" / "human_pbmc.h5ad")
    detected = np.asarray((everything.X > 0).sum(axis=0)).ravel()
    return everything[::3, np.sort(np.argsort(-detected, kind="stable")[:600])].copy()


@pytest.fixture(scope="session")
def vocabulary(cells: anndata.AnnData) -> GeneVocabulary:
    """Special tokens, and 500 of the genes in an order of their own."""
    genes = np.random.default_rng(0).permutation(cells.var_names.to_numpy())[:N_GENES]
    return GeneVocabulary([*SPECIAL.values(), *genes], special_tokens=SPECIAL, id_kind="symbol", species=("human",))


def make_tokenizer(vocabulary: GeneVocabulary, scheme: str, **options: Any) -> CellTokenizer:
    """A tokenizer with seeded medians, where the scheme wants them."""
    medians = np.random.default_rng(1).uniform(0.5, 3, len(vocabulary))
    medians[: len(SPECIAL)] = np.nan
    given: dict[str, Any] = {"scheme": scheme, "max_length": 300, **options}
    if scheme == "rank":
        given.setdefault("statistics", {"median": medians})
    return CellTokenizer.from_vocabulary(vocabulary, **given)


@pytest.fixture(params=["rank", "bin"])
def tokenizer(request: pytest.FixtureRequest, vocabulary: GeneVocabulary) -> CellTokenizer:
    """One of each scheme."""
    return make_tokenizer(vocabulary, request.param)


@pytest.fixture
def rank_tokenizer(vocabulary: GeneVocabulary) -> CellTokenizer:
    return make_tokenizer(vocabulary, "rank", surround=True)


@pytest.fixture
def bin_tokenizer(vocabulary: GeneVocabulary) -> CellTokenizer:
    return make_tokenizer(vocabulary, "bin")
