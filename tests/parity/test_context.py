"""What a rule has at hand: cells run in the groups of the original, on stored inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

from parity.context import Context
from parity.rules import RuleTable
from parity.toy import IDS, MASK, STATES, TOKENS, make_golden
from parity.variant import Variant

if TYPE_CHECKING:
    from pathlib import Path


# --------------------------------------------------------------------------------------------------------------- calls


class MeanOfAll(nn.Module):
    """A model whose cells depend on their padding, so that the batch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: torch.Tensor) -> Any:
        self.calls.append(tuple(input_ids.shape))
        noise = torch.rand(1) if self.training else torch.zeros(1)
        states = self.scale * input_ids.float() + noise
        return MeanOutput(states=states, mean=states.mean(1), loss=states.sum())


@dataclass
class MeanOutput(ModelOutput):
    states: Any = None
    mean: Any = None
    loss: Any = None


class ToyContext(Context):
    """A context whose model needs no checkpoint."""

    toy: MeanOfAll

    @property
    def folder(self) -> Path:
        return self.golden.folder

    def model(self, class_name: str, **options: Any) -> nn.Module:
        return self.toy

    def tokenizer(self) -> Any:
        return SimpleNamespace(pad_token_id=0)


def context_of(tmp_path: Path, donors: Any = None, **keys: Any) -> ToyContext:
    inputs = {"input_ids": (IDS, TOKENS), "attention_mask": (MASK, TOKENS), "depth": ([1, 2, 3], {"axis": ["cell"]})}
    golden = make_golden(
        tmp_path, {**inputs, "x": (STATES, {"axis": ["cell"], **keys})}, seeds={"torch_drop": 5}, donors=donors
    )
    array = golden.arrays["x"]
    context = ToyContext(
        Variant(golden, RuleTable(family="toy", rules=()), lambda weights: golden.folder), array, None, {}
    )
    context.toy = MeanOfAll().eval()
    return context


def test_cells_run_one_at_a_time_without_padding(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    found = context.outputs("AutoModel")
    assert context.toy.calls == [(1, 3), (1, 2), (1, 4)]
    np.testing.assert_allclose(found["mean"], [4, 6.5, 5.5])
    np.testing.assert_equal(found["states"][1], [7, 6, np.nan, np.nan])
    assert found["loss"].shape == (3,)


@pytest.mark.parametrize(("batch", "shapes"), [("all", [(2, 3)]), (1, [(1, 2), (1, 3)]), (64, [(2, 3)])])
def test_batches_are_padded_to_their_longest_cell(tmp_path: Path, batch: Any, shapes: list[tuple[int, int]]) -> None:
    context = context_of(tmp_path, cells=[1, 0], batch=batch)
    means = context.outputs("AutoModel")["mean"]
    assert context.toy.calls == shapes
    np.testing.assert_allclose(means, [13 / 3, 4] if batch != 1 else [6.5, 4], rtol=1e-6)


def test_arrays_share_the_runs_of_their_cells(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.outputs("AutoModel")
    other = ToyContext(context._variant, replace(context.array, name="y", cells=(2, 0)), None, {})
    other.toy = context.toy
    np.testing.assert_allclose(other.outputs("AutoModel")["mean"], [5.5, 4])
    assert len(context.toy.calls) == 3


def test_cells_may_run_together_for_draws_of_the_batch(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    assert context.outputs("AutoModel", together=True)["loss"].shape == (1,)
    assert context.toy.calls == [(3, 4)]


def test_lines_come_back_in_their_order_where_a_list_makes_the_groups(tmp_path: Path) -> None:
    context = context_of(tmp_path, batch="obs_batch", options={"obs_batch": "donors"}, donors=["b", "a", "b"])
    np.testing.assert_allclose(context.outputs("AutoModel")["mean"], [3, 6.5, 5.5])
    assert context.toy.calls == [(1, 2), (2, 4)]


def test_named_inputs_are_fed_and_a_mask_that_is_not_named_is_made(tmp_path: Path) -> None:
    context = context_of(
        tmp_path, inputs={"input_ids": "input_ids", "read_depth": "depth", "labels": None}, cells=[2, 1]
    )
    found = context.inputs(rename={"read_depth": "depth"})
    assert sorted(found) == ["attention_mask", "depth", "input_ids"]
    np.testing.assert_array_equal(found["attention_mask"], MASK[[2, 1]])
    np.testing.assert_array_equal(found["depth"], [3, 2])


def test_training_runs_on_a_copy_with_the_seeds_of_the_original(tmp_path: Path) -> None:
    context = context_of(tmp_path, batch="all", mode="train", seeds=["torch_drop"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = context.training_pass("AutoModel")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    np.testing.assert_allclose(found.outputs["states"], IDS + torch.rand(1).numpy())
    np.testing.assert_allclose(found.gradients["scale"], [IDS.sum()])
    assert context.toy.scale.grad is None
    assert not context.toy.training
