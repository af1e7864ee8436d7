"""A tiny encoder with tokenizer and real cells, to try objectives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from models.examples import example_of, fill_side_tables

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer


class Tiny:
    """A family's tiny encoder, its tokenizer, and eight real cells in the two forms that a corpus gives them."""

    def __init__(self, family: str) -> None:
        self.example = example_of(family)

    @property
    def tokenizer(self) -> CellTokenizer:
        return self.example.tokenizer

    def encoder(self, seed: int = 0, **options: Any) -> PreTrainedModel:
        spec = self.example.spec
        made = spec.load_class(spec.locate(spec.classes_of("AutoModel")[0])[1])
        torch.manual_seed(seed)
        encoder = made(self.example.config(made.__name__, **options))
        fill_side_tables(encoder)
        return encoder

    @property
    def columns(self) -> dict[str, list[str]]:
        """Classes of the cells' annotation."""
        return {"cell_type": sorted(set(self.example.cells.obs["cell_type"]))}

    def cells(self) -> list[dict[str, Any]]:
        """Inputs of the encoder, raw counts, name and annotation of each cell."""
        adata = self.example.cells
        encoded = self.tokenizer.to_dataset(adata, columns=["cell_type"])
        counts, ids = adata.X.toarray(), self.tokenizer.scheme().gene_vocabulary.ids(list(adata.var_names))
        made = []
        for row, of_cell in enumerate(encoded):
            genes = np.flatnonzero((counts[row] > 0) & (ids >= 0))
            made.append({**of_cell, "gene_ids": ids[genes], "counts": counts[row, genes]})
        return made


@pytest.fixture(params=["geneformer", "scgpt"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return Tiny(request.param)


@pytest.fixture
def tiny_scgpt() -> Tiny:
    return Tiny("scgpt")


@pytest.fixture
def tiny_geneformer() -> Tiny:
    return Tiny("geneformer")
