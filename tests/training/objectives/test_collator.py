"""What is hidden in a cell depends on seed, epoch and cell alone, for every objective."""

from __future__ import annotations

import pickle
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from training.objectives.conftest import Tiny

from scfm_hf.training.objectives import make_objectives

if TYPE_CHECKING:
    from scfm_hf.training.objectives import Objectives

OPTIONS: dict[str, dict[str, Any]] = {
    "scgpt": {
        "masked_value": {},
        "generative": {},
        "read_depth": {"min_depth": 20},
        "denoising": {},
        "bottleneck": {},
        "binary_expression": {"n_queries": 10},
        "contrastive": {"view": "counts"},
        "multi_task": {"columns": ["cell_type"]},
    },
    "geneformer": {"masked_gene": {}, "masked_value": {"likelihood": "zinb"}, "next_gene": {}, "contrastive": {}},
    "scfoundation": {"read_depth": {}},
    "scprint": {"denoising": {}, "bottleneck": {}},
    "uce": {"binary_expression": {"n_queries": 10}},
    "nicheformer": {"masked_gene": {}},
    "genecompass": {"masked_gene": {}},
    "tgpt": {"next_gene": {}},
    "scbert": {"masked_value": {}},
    "celllm": {"masked_value": {}, "contrastive": {"view": "dropout"}},
}


@cache
def made(family: str) -> tuple[Objectives, list[dict[str, Any]]]:
    tiny = Tiny(family)
    objectives = make_objectives(OPTIONS[family], tokenizer=tiny.tokenizer, columns=tiny.columns)
    objectives.model(tiny.encoder())
    # An own head of its own cells is refused for those without counts, as UCE's names of genes are other ones.
    return objectives, [cell for cell in tiny.cells() if len(cell["gene_ids"]) > 5]


def rows_of(batch: dict[str, Any], n_cells: int) -> list[dict[str, list[float]]]:
    """Every column of each cell, without the padding at its end; both views of a cell are two rows."""
    found: list[dict[str, list[float]]] = [{} for _ in range(n_cells)]
    for side in ("inputs", "labels"):
        for name, columns in batch[side].items():
            for column, values in columns.items():
                if column == "view_of":
                    continue
                for row, value in enumerate(values.double()):
                    flat = value.reshape(-1)
                    found[row % n_cells][f"{side}.{name}.{column}.{row // n_cells}"] = flat.tolist()
    return found


def same_but_for_padding(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
    """One is the other with something constant behind it."""
    if one.keys() != other.keys():
        return False
    for name, values in one.items():
        short, long = sorted((values, other[name]), key=len)
        if long[: len(short)] != short or len(set(long[len(short) :])) > 1:
            return False
    return True


@pytest.mark.parametrize("family", OPTIONS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_cell_is_prepared_the_same_in_any_batch(family: str, data: st.DataObject) -> None:
    objectives, cells = made(family)
    objectives.collator.set_epoch(data.draw(st.integers(0, 3)))
    chosen = data.draw(st.permutations(range(len(cells))))[: data.draw(st.integers(1, len(cells)))]
    together = rows_of(objectives.collator([cells[row] for row in chosen]), len(chosen))
    for place, row in enumerate(chosen):
        (alone,) = rows_of(objectives.collator([cells[row]]), 1)
        assert same_but_for_padding(alone, together[place])


@pytest.mark.parametrize("family", ["scgpt", "geneformer"])
def test_epoch_and_seed_change_what_is_hidden(family: str) -> None:
    objectives, cells = made(family)
    seen = []
    for epoch in (0, 1, 0):
        objectives.collator.set_epoch(epoch)
        seen.append(str(rows_of(objectives.collator(cells), len(cells))))
    assert seen[0] == seen[2] != seen[1]
    tiny = Tiny(family)
    other = make_objectives(OPTIONS[family], tokenizer=tiny.tokenizer, columns=tiny.columns, seed=1)
    other.model(tiny.encoder())
    assert str(rows_of(other.collator(cells), len(cells))) != seen[0]


def test_a_cell_without_a_name_is_known_by_what_it_holds() -> None:
    objectives, cells = made("scgpt")
    objectives.collator.set_epoch(0)
    unnamed = [{name: value for name, value in cell.items() if name != "cell_id"} for cell in cells]
    forward, backward = (rows_of(objectives.collator(part), len(cells)) for part in (unnamed, unnamed[::-1]))
    assert all(same_but_for_padding(one, other) for one, other in zip(forward, backward[::-1], strict=True))
    assert forward != rows_of(objectives.collator(cells), len(cells))


def test_workers_hear_of_a_new_epoch() -> None:
    objectives, cells = made("geneformer")
    loader = DataLoader(cells, batch_size=3, num_workers=1, collate_fn=objectives.collator, persistent_workers=True)
    for epoch in (0, 1):
        objectives.collator.set_epoch(epoch)
        for number, batch in enumerate(loader):
            wanted = objectives.collator(cells[3 * number : 3 * number + 3])
            for name, columns in wanted["inputs"].items():
                for column, values in columns.items():
                    assert torch.equal(batch["inputs"][name][column], values)


def test_a_collator_can_be_sent_to_another_process() -> None:
    objectives, cells = made("scgpt")
    objectives.collator.set_epoch(2)
    again = pickle.loads(pickle.dumps(objectives.collator))
    assert again.epoch == 2
    assert str(again(cells)) == str(objectives.collator(cells))
