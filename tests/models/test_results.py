"""What a model gives depends on the cell alone, not on its batch, its file's format, or how attention is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from models.examples import Case, every_class, forward_parameters, largest_difference, loss_of, results, save_memory
from packaging.version import Version
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

#: Implementations of attention that this machine can run.
IMPLEMENTATIONS = ("sdpa", "eager")


def with_option(name: str) -> pytest.MarkDecorator:
    """Run for the classes whose ``forward`` has an option."""
    cases = [case for case in every_class() if name in forward_parameters(case.model_class)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.class_name)


attending = pytest.mark.parametrize(
    "case", [case for case in every_class() if case.model_class._supports_sdpa], ids=lambda case: case.class_name
)


def rows_of(output: Mapping[str, Tensor], rows: list[int], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Some rows of a batch's results, without what padding adds to those rows alone."""
    return {
        name: value[rows][tuple(slice(size) for size in like[name].shape)]
        for name, value in output.items()
        if value.ndim
    }


# ------------------------------------------------------------------------------------------------------- batch and file


def test_a_cell_gives_the_same_alone_as_in_a_ragged_batch(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    asked = {name: True for name in ("output_hidden_states", "output_attentions") if name in case.takes}
    together = results(model, batch, **asked)
    n_cells = len(next(iter(batch.values())))
    for rows in case.example.groups or [[row] for row in range(n_cells)]:
        alone = results(model, case.inputs(rows), **asked)
        assert largest_difference(alone, rows_of(together, list(rows), alone)) <= 1e-5


def test_more_padding_changes_nothing(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    expected = results(model, batch)
    encoded = case.example.tokenizer(case.example.cells)
    longer = dict(case.example.tokenizer.pad(encoded, pad_to_multiple_of=16, return_tensors="pt"))
    got = results(model, {**batch, **longer})
    assert (
        largest_difference(
            {name: got[name][tuple(map(slice, value.shape))] for name, value in expected.items()}, expected
        )
        <= 1e-5
    )


@pytest.mark.parametrize("change", ["permuted genes", "csc", "dense", "int32", "float64", "view", "layer"])
def test_how_the_file_is_written_changes_nothing(case: Case, change: str) -> None:
    cells, options = case.example.cells.copy(), {}
    if change == "permuted genes":
        cells = cells[:, np.random.default_rng(5).permutation(cells.n_vars)].copy()
    elif change == "csc":
        cells.X = sparse.csc_matrix(cells.X)
    elif change == "dense":
        cells.X = cells.X.toarray()
    elif change == "view":
        cells = cells[:, :]
    elif change == "layer":
        cells.layers["counts"], options = cells.X.copy(), {"layer": "counts"}
        cells.X = cells.X.log1p()
    else:
        cells.X = cells.X.astype(change)
    encoded = dict(case.example.tokenizer(cells, padding=True, return_tensors="pt", **options))
    got = {**encoded, **case.example.further_inputs(case.class_name, cells, encoded)}
    expected = case.inputs()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        assert torch.equal(got[name], value), name
    model = case.model()
    assert largest_difference(results(model, got), results(model, expected)) == 0


# ------------------------------------------------------------------------------------------------------------ attention


@attending
def test_attention_is_sdpa_unless_asked(case: Case, saved: Path) -> None:
    assert case.model_class.from_pretrained(saved).config._attn_implementation == "sdpa"
    assert case.model_class.from_pretrained(saved, attn_implementation="eager").config._attn_implementation == "eager"


@attending
def test_eager_attention_gives_the_same_as_sdpa(case: Case) -> None:
    model, batch = case.model(), case.labelled()
    given, gradients = [], []
    for implementation in IMPLEMENTATIONS:
        model.set_attn_implementation(implementation)
        given.append(results(model, batch))
        gradients.append(gradients_of(model, batch))
    assert largest_difference(*given) <= 1e-5
    assert largest_difference(*gradients) <= 1e-5


@with_option("output_attentions")
def test_attentions_are_probabilities_over_real_tokens(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    plain = results(model, batch)
    for implementation in IMPLEMENTATIONS if case.model_class._supports_sdpa else [None]:
        if implementation:
            model.set_attn_implementation(implementation)
        asked = results(model, batch, output_attentions=True)
        attentions = [value for name, value in asked.items() if name.startswith("attentions")]
        assert attentions
        for value in attentions:
            sums = value.sum(-1)
            assert (value >= 0).all()
            if "attention_mask" in batch and value.shape[-1] == batch["attention_mask"].shape[1]:
                real = batch["attention_mask"].bool()
                assert value.masked_select(~real[:, None, None, :]).abs().sum() == 0
                sums = sums.masked_select(real[:, None, :])
            assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        assert largest_difference(plain, {name: asked[name] for name in plain}) <= 1e-5
        if implementation:
            assert model.config._attn_implementation == implementation, (
                "asking for attentions must not outlast the call"
            )
    assert not any(name.startswith("attentions") for name in results(model, batch))


@pytest.mark.parametrize(
    "case",
    [case for case in every_class() if "attention_mask" in forward_parameters(case.model_class)],
    ids=lambda case: case.class_name,
)
def test_a_cell_with_nothing_to_attend_to_gives_zeros(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    usual = results(model, batch)
    mask = batch["attention_mask"].clone()
    mask[2] = 0
    for implementation in IMPLEMENTATIONS if case.model_class._supports_sdpa else [None]:
        if implementation:
            model.set_attn_implementation(implementation)
        asked = {"output_attentions": True} if "output_attentions" in case.takes else {}
        for options in ({}, asked):
            got = results(model, {**batch, "attention_mask": mask}, **options)
            for name, value in got.items():
                assert value.isfinite().all(), (name, implementation)
                if name.startswith("attentions") or name in ("last_hidden_state", "cell_embedding"):
                    assert (value[2] == 0).all(), (name, implementation)
            others = [row for row in range(len(mask)) if row != 2]
            assert largest_difference(*({name: out[name][others] for name in usual} for out in (got, usual))) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case",
    [case for case in every_class() if "attention_mask" in forward_parameters(case.model_class)],
    ids=lambda case: case.class_name,
)
def test_such_a_cell_is_finite_in_half_precision(case: Case, dtype: torch.dtype) -> None:
    """What guards a division by a length or a sum of 0 must not be lost in a smaller range of numbers."""
    model, batch = case.model().to(dtype), case.inputs()
    batch["attention_mask"] = batch["attention_mask"].clone()
    batch["attention_mask"][2] = 0
    for name, value in results(model, batch).items():
        assert value.isfinite().all(), name


@with_option("output_hidden_states")
def test_hidden_states_are_those_of_every_layer(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    plain = results(model, batch)
    got = results(model, batch, output_hidden_states=True)
    states = [value for name, value in got.items() if name.startswith("hidden_states")]
    assert len(states) == case.config().num_hidden_layers + 1
    assert largest_difference(plain, {name: got[name] for name in plain}) == 0
    if case.is_base:
        assert torch.equal(states[-1], got["last_hidden_state"])


@with_option("output_hidden_states")
def test_gradients_reach_the_hidden_states_that_are_given(case: Case) -> None:
    """Attribution asks for the gradient by an inner state: the state given must be the one that was used."""
    states = case.model()(**case.labelled(), output_hidden_states=True)
    for state in states.hidden_states[:-1]:
        state.retain_grad()
    sum(
        value.sum() for name, value in states.items() if name in ("loss", "cell_embedding", "last_hidden_state")
    ).backward()
    used = [state.grad for state in states.hidden_states[:-1] if state.grad is not None]
    assert len(used) >= case.config().num_hidden_layers - 1
    assert all(gradient.abs().max() > 0 for gradient in used)


# -------------------------------------------------------------------------------------------------------- cell
# embedding


def test_every_class_gives_the_cell_embedding(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    given = results(model, batch)["cell_embedding"]
    assert given.ndim == 2
    assert len(given) == len(next(iter(batch.values())))
    assert given.isfinite().all()
    body = model if case.is_base else getattr(model, model.base_model_prefix)
    of_body = {name: value for name, value in batch.items() if name in forward_parameters(type(body))}
    assert torch.allclose(results(body, of_body)["cell_embedding"], given, atol=1e-6)


def test_another_recipe_for_the_embedding_lasts_for_one_block(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    before = results(model, batch)["cell_embedding"]
    for pooling in case.config().poolings:
        with model.embedding_options(pooling=pooling):
            asked = results(model, batch)["cell_embedding"]
        assert asked.isfinite().all()
        assert torch.equal(asked, before) == (pooling == model.config.pooling)
    assert torch.equal(results(model, batch)["cell_embedding"], before)
    for wrong in ({"pooling": "nonsense"}, {"embedding_layer": 99}):
        was = model.config.to_dict()
        with pytest.raises(ValueError, match=next(iter(wrong))), model.embedding_options(**wrong):
            pass
        assert model.config.to_dict() == was


@with_option("output_hidden_states")
def test_each_layer_can_be_embedded(case: Case) -> None:
    model, batch = case.model(), case.inputs()
    layers = range(case.config().num_hidden_layers + 1)
    given = []
    for layer in layers:
        with model.embedding_options(embedding_layer=layer):
            given.append(results(model, batch)["cell_embedding"])
        with model.embedding_options(embedding_layer=layer - len(layers)):
            assert torch.equal(results(model, batch)["cell_embedding"], given[-1])
    for one, other in zip(given[:-1], given[1:], strict=True):
        assert not torch.equal(one, other)


# ----------------------------------------------------------------------------------------------- transformers' own ways


@pytest.mark.parametrize(
    "case", [case for case in every_class() if hasattr(case.config(), "vocab_size")], ids=lambda case: case.class_name
)
def test_the_vocabulary_can_grow(case: Case, tmp_path: Path) -> None:
    model, batch = case.model(), case.inputs()
    size, before = model.config.vocab_size, results(model, batch)
    model.resize_token_embeddings(size + 3)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == size + 3
    after = results(model, batch)
    same = {name: after[name][tuple(map(slice, value.shape))] for name, value in before.items()}
    assert largest_difference(same, before) <= 1e-6
    new = {**batch, "input_ids": batch["input_ids"].clone()}
    new["input_ids"][:, 1] = size + 2
    expected = results(model, new)
    model.save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path)
    assert largest_difference(results(loaded, new), expected) == 0
    model.train()
    loss_of(model, case.labelled()).backward()


def test_tuples_are_given_on_request(case: Case, tmp_path: Path) -> None:
    """By the call or by the configuration, whose wish must not reach the encoder inside."""
    model, batch = case.model(), case.labelled()
    with torch.no_grad():
        expected = model(**batch).to_tuple()
        model.save_pretrained(tmp_path)
        model.config.return_dict = False
        of_config = case.model_class.from_pretrained(tmp_path, return_dict=False)(**batch)
        given = (model(**batch), of_config, case.model()(**batch, return_dict=False))
        assert type(model(**batch, return_dict=True)) is not tuple
    for one in given:
        assert type(one) is tuple
        assert len(one) == len(expected)
        tensors = [(got, value) for got, value in zip(one, expected, strict=True) if isinstance(value, torch.Tensor)]
        assert all(torch.equal(got, value) for got, value in tensors)


@pytest.mark.parametrize(
    "case",
    [case for case in every_class() if case.model_class.supports_gradient_checkpointing],
    ids=lambda case: case.class_name,
)
def test_gradient_checkpointing_changes_no_gradient(case: Case) -> None:
    batch, calls, gradients = case.labelled(), [], []
    for checkpointed in (False, True):
        model = case.model().train()
        if checkpointed:
            save_memory(model)
        calls.append(0)
        for module in model.modules():
            module.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        gradients.append(gradients_of(model, batch))
    assert calls[1] > calls[0], "no layer was computed again"
    assert largest_difference(*gradients) <= 1e-6


def test_compiles_into_one_graph(case: Case) -> None:
    """Into several with a torch before 2.12, whose compiler leaves the graph for some of transformers' outputs."""
    one_graph = Version(torch.__version__) >= Version("2.12")
    model, batch = case.model(), case.inputs()
    expected = results(model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=one_graph, dynamic=False)
    assert largest_difference(results(compiled, batch), expected) <= 1e-6
    torch._dynamo.reset()


def gradients_of(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the loss, in units of the largest of each parameter."""
    loss_of(model, batch).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return {name: value / value.abs().max().clamp(min=1) for name, value in found.items()}
