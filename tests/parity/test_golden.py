"""The trimmed goldens keep the layout of the whole set, so that the same tests run on both."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from parity.golden import TRIMMED_ROOT, Golden, golden_folders, golden_root
from parity.toy import ATTENTION_MASK, HIDDEN, IDS, STATES, TOKENS, make_golden

TRIMMED = [Golden(folder) for folder in golden_folders(TRIMMED_ROOT)]


@pytest.mark.parametrize("golden", TRIMMED, ids=str)
def test_descriptions_fit_what_is_stored(golden: Golden) -> None:
    for array in golden.arrays.values():
        values = golden.values(array.name)
        assert (values.shape, str(values.dtype)) == (array.shape, array.dtype), array.name
        assert array.axis is None or len(array.axis) == values.ndim, array.name
        if array.has_cells and array.cells is not None:
            assert len(array.cells) == len(values), array.name
        referred = [*(array.inputs or {}).values(), *array.keys, array.where, array.tie_groups]
        assert all(name in golden.arrays for name in referred if name is not None), array.name


@pytest.mark.parametrize("golden", TRIMMED, ids=str)
def test_cells_that_are_fed_have_counts(golden: Golden) -> None:
    for name in {array.case for array in golden.arrays.values()}:
        cells = golden.case(name).cells()
        assert cells.n_obs == len(golden.case(name).rows)
        assert (np.asarray(cells.X.sum(1)) > 0).all()


def trim_script() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "trim_goldens.py"
    spec = importlib.util.spec_from_file_location("trim_goldens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trimming_cuts_outputs_and_cells_but_no_input(tmp_path: Path) -> None:
    arrays = {
        "input_ids": (IDS, TOKENS),
        **ATTENTION_MASK,
        "states": (STATES, {**HIDDEN, "where": "attention_mask"}),
        "fed": (STATES, HIDDEN),
        "embedding": (STATES[:, 0], {"axis": ["cell", "hidden"], "inputs": {"inputs_embeds": "fed"}}),
        "shift": (STATES, HIDDEN),
    }
    make_golden(tmp_path / "whole", arrays, input="cells/few.h5ad")
    counts = csr_matrix(np.arange(1, 28, dtype=np.float32).reshape(9, 3))
    genes = pd.DataFrame({"symbol": ["é", "", "b"]}, index=["x", "yy", "z"])
    (tmp_path / "whole" / "cells").mkdir()
    anndata.AnnData(counts, var=genes).write_h5ad(tmp_path / "whole" / "cells" / "few.h5ad")
    trim_script().trim(
        tmp_path / "whole", tmp_path / "part", families=["toy"], drop=["toy/small/shift", "toy/other"], n_tokens=2
    )
    golden = Golden(tmp_path / "part" / "toy" / "small")
    assert sorted(golden.arrays) == ["attention_mask", "embedding", "fed", "input_ids", "states"]
    assert golden.arrays["states"].shape == golden.values("states").shape == (3, 2, 2)
    np.testing.assert_array_equal(golden.values("states"), STATES[:, :2])
    np.testing.assert_array_equal(golden.values("fed"), STATES)
    np.testing.assert_array_equal(golden.values("input_ids"), IDS)
    cells = anndata.read_h5ad(tmp_path / "part" / "cells" / "few.h5ad")
    fed = np.isin(np.arange(9), [4, 8, 6])
    np.testing.assert_array_equal(cells.X.toarray(), counts.toarray() * fed[:, None])
    assert cells.var_names.tolist() == ["x", "yy", "z"]
    assert cells.var["symbol"].tolist() == ["é", "", "b"]


def test_a_named_set_that_holds_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_golden(tmp_path, {"x": (IDS, TOKENS)})
    monkeypatch.setenv("SCFM_HF_GOLDEN", str(tmp_path))
    assert golden_root() == tmp_path
    # A family in place of the set: no variant lies where it is looked for.
    monkeypatch.setenv("SCFM_HF_GOLDEN", str(tmp_path / "toy"))
    with pytest.raises(FileNotFoundError, match="toy holds no <family>/<variant>/golden.json"):
        golden_root()
