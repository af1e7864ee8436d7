"""Fixtures that tests of all packages share: where the data is, and a few real cells."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import pytest
from parity.golden import golden_root
from processes import end_with_the_tests

# First of all: it points huggingface_hub, which reads its environment on import, to the hub on loopback.
pytest_plugins = ["hub_server.fixtures", "parity.plugin"]

end_with_the_tests()

TESTS = Path(__file__).parent
# The material beside the repository that a bare clone does not have.
SHARED = Path(os.environ.get("SCFM_HF_SHARED", TESTS.parents[1] / "shared"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The files under ``tests/data``."""
    return TESTS / "data"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Data sets, vocabularies and golden numbers: SCFM_HF_SHARED, else beside the repository; skips without them."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder 'shared' beside the repository, or SCFM_HF_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Golden numbers of the originals: SCFM_HF_GOLDEN, else those of ``shared``, else the trimmed ``tests/golden``."""
    return golden_root()


@pytest.fixture
def human_pbmc() -> anndata.AnnData:
    """72 blood cells, raw counts, 13,714 genes by symbol (``var["ensembl_id"]``); eight cells of each ``cell_type``."""
    return anndata.read_h5ad(TESTS / "data" / "human_pbmc.h5ad")


@pytest.fixture
def human_lines() -> anndata.AnnData:
    """18 deep cells (7,000 genes each), raw counts, by Ensembl id (``var["gene_symbol"]``); three ``cell_line``."""
    return anndata.read_h5ad(TESTS / "data" / "human_lines.h5ad")


@pytest.fixture
def mouse_oligodendrocytes() -> anndata.AnnData:
    """40 mouse cells, raw counts, 2,000 genes by symbol (``var["ensembl_id"]``); four cells of each ``cell_type``."""
    return anndata.read_h5ad(TESTS / "data" / "mouse_oligodendrocytes.h5ad")
