"""A tiny Geneformer with its tokenizer, saved as a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import set_seed

from scfm_hf.models.registry import families
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata


@pytest.fixture
def model_folder(human_pbmc: anndata.AnnData, tmp_path: Path) -> Path:
    """A folder that ``from_pretrained`` reads: random weights, a vocabulary of these cells' genes."""
    tokenizer = rank_tokenizer(human_pbmc, gene_column="ensembl_id", min_cells=3, max_length=64)
    spec = families()["geneformer"]
    sizes = {**spec.tiny, "vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest}
    special = {"cls_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.eos_token_id}
    set_seed(0)
    model = spec.load_class("GeneformerModel")(
        spec.load_config_class()(**sizes, **special, version="V2", pooling="cls")
    )
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
