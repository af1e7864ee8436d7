"""A tiny model, files of real cells, and the command as it is called from a shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner, Result

from scfm_hf.cli import app
from scfm_hf.models.registry import families
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

Scfm = Callable[..., Result]


@pytest.fixture
def scfm() -> Scfm:
    """Run ``scfm`` with the arguments; the result has exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def cells(tmp_path: Path, human_pbmc: anndata.AnnData) -> Path:
    """72 labelled blood cells as a file."""
    human_pbmc.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def model(tmp_path: Path, human_pbmc: anndata.AnnData) -> Path:
    """A Geneformer of a few thousand parameters that knows the genes of the cells, with its tokenizer."""
    tokenizer = rank_tokenizer(human_pbmc, gene_column="ensembl_id", min_cells=1, max_length=32)
    spec = families()["geneformer"]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "mask", "cls", "eos")}
    options = dict(spec.tiny) | {"vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest}
    torch.manual_seed(0)
    made = spec.load_class("GeneformerModel")(spec.load_config_class()(version="V2", **options, **special))
    made.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
