"""Read-depth-aware pretraining: a shallower cell with hidden genes, and the raw cell's expression to be found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining

from scfm_hf.models.released import released_tokenizer
from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig
from scfm_hf.models.scfoundation.pretraining_scfoundation import read_depth_batch, shallower
from scfm_hf.tokenization.draws import CellDraws

if TYPE_CHECKING:
    import anndata

CONFIG = ScFoundationConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    num_bins=6,
    decoder_hidden_size=8,
    decoder_num_layers=1,
    decoder_num_heads=1,
    decoder_head_size=4,
    decoder_intermediate_size=8,
)


@pytest.fixture
def cells(human_pbmc: anndata.AnnData) -> list[dict[str, Any]]:
    columns = released_tokenizer("scfoundation").encode_cells(human_pbmc[:6], return_columns=("counts",)).columns
    return [{name: columns[name].row(row) for name in ("input_ids", "counts")} for row in range(6)]


def test_what_is_hidden_and_what_is_wanted(cells: list[dict[str, Any]]) -> None:
    names = [f"cell {number}" for number in range(6)]
    batch = read_depth_batch(cells, CONFIG, draws=CellDraws(0, step="epoch 0"), cell_ids=names)
    shallow = 0
    for row, cell in enumerate(cells):
        counts = np.zeros(CONFIG.num_genes)
        counts[cell["input_ids"][:-2]] = cell["counts"][:-2]
        real = batch["attention_mask"][row].bool()
        ids, values = batch["input_ids"][row][real], batch["values"][row][real]
        assert ids[-2:].tolist() == [CONFIG.target_depth_token_id, CONFIG.source_depth_token_id]
        assert values[-2].item() == pytest.approx(np.log10(counts.sum()))
        assert values[-1] <= values[-2]
        shallow += bool(values[-1] < values[-2])
        masked = batch["masked_genes"][row]
        # The encoder sees no gene that is hidden, and none that the cell does not express.
        assert not masked[ids[:-2]].any()
        assert (counts[ids[:-2]] > 0).all()
        seen = len(ids) - 2
        assert int((seen + (masked & torch.from_numpy(counts > 0)).sum()) * 0.25) <= int(masked.sum())
        wanted = np.log1p(counts / counts.sum() * 1e4)
        np.testing.assert_allclose(batch["labels"][row][masked], wanted[masked.numpy()], rtol=1e-6)
        assert (batch["labels"][row][~masked] == -100).all()
    assert 0 < shallow < 6


def test_without_a_shallower_cell_the_shares_are_exact(cells: list[dict[str, Any]]) -> None:
    few = [{"input_ids": cell["input_ids"][:100], "counts": np.ones(100)} for cell in cells]
    batch = read_depth_batch(few, CONFIG, draws=CellDraws(), cell_ids=range(6))
    n_zero = CONFIG.num_genes - 100
    assert batch["masked_genes"].sum(1).tolist() == [30 + int(n_zero * 0.03)] * 6
    assert batch["attention_mask"].sum(1).tolist() == [72] * 6


def test_a_cell_draws_for_itself(cells: list[dict[str, Any]]) -> None:
    draws = CellDraws(3, step="epoch 1")
    together = read_depth_batch(cells, CONFIG, draws=draws, cell_ids="abcdef")
    alone = read_depth_batch(cells[2:3], CONFIG, draws=draws, cell_ids="c")
    n = alone["input_ids"].shape[1]
    assert all(torch.equal(together[name][2:3][:, : value.shape[1]], value) for name, value in alone.items())
    assert not together["attention_mask"][2, n:].any()


def test_cells_get_shallower_but_never_deeper_or_empty() -> None:
    counts = np.arange(200.0)
    changed = 0
    for number in range(60):
        drawn = shallower(counts, CellDraws(1).cell(number))
        assert (drawn <= counts).all()
        assert drawn.sum() > 0
        changed += bool((drawn != counts).any())
    assert 15 < changed < 45
    few = np.ones(900)
    assert all(shallower(few, CellDraws(1).cell(number)) is few for number in range(10))


def test_a_cell_without_counts_is_named() -> None:
    cell = {"input_ids": [CONFIG.target_depth_token_id], "counts": [0.0]}
    with pytest.raises(ValueError, match="x17"):
        read_depth_batch([cell], CONFIG, draws=CellDraws(), cell_ids=["x17"])


def test_a_model_learns_it(cells: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    model = AutoModelForPreTraining.from_config(CONFIG).train()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for epoch in range(8):
        draws = CellDraws(0, step=f"epoch {epoch}")
        batch = read_depth_batch(cells[:2], CONFIG, draws=draws, cell_ids=range(2))
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
