"""CellLM's pretraining, from the paper: divide and conquer gives the gradient of the whole batch."""

from __future__ import annotations

import pytest
import torch
from models.examples import Case, example_of
from torch import nn

from scfm_hf.models.celllm.pretraining_celllm import CellLMForPreTraining, mask_values
from scfm_hf.tokenization.draws import CellDraws

CASE = Case(example_of("celllm"), "CellLMForPreTraining")
DROPOUT = {"hidden_dropout_prob": 0.3, "contrastive_weight": 0.7}


def model_with(**options: object) -> CellLMForPreTraining:
    """A model in training, in double precision, with dropout."""
    model = CASE.model()
    config = model.config
    for name, value in {**DROPOUT, **options}.items():
        setattr(config, name, value)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.hidden_dropout_prob
    return model.double().train()


def seeded_dropout(model: nn.Module) -> None:
    """Masks that follow from the cell and the view alone, however the batch is cut."""

    def drop(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        first = inputs[0].detach()[:, 0].sum(-1)
        signs = torch.sin(1e3 * first[:, None, None] + torch.arange(inputs[0].shape[-1]))
        return inputs[0] * (1 + 0.3 * signs)

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(drop)


def gradients(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [1, 3, 8])
def test_chunks_give_the_gradient_of_the_whole_batch(size: int) -> None:
    batch, found = CASE.labelled(), []
    for chunk in (None, size):
        model = model_with(cells_per_chunk=chunk)
        seeded_dropout(model)
        found.append(gradients(model, batch))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-12), name


def test_a_chunk_is_encoded_again_with_the_dropout_that_it_had() -> None:
    """By finite differences: with other dropout the gradient would belong to another loss."""
    model, batch = model_with(cells_per_chunk=3), CASE.labelled()
    _, found = gradients(model, batch)
    name, step = "celllm.embeddings.values.weight", 1e-6
    weight = dict(model.named_parameters())[name]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 3] += sign * step
        torch.manual_seed(5)
        values.append(model(**batch).loss.item())
        with torch.no_grad():
            weight[2, 3] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(found[name][2, 3]), rel=1e-5, abs=1e-8)


def kept_for_the_way_back(chunk: int | None) -> int:
    """Numbers that a forward pass keeps."""
    kept: list[int] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model_with(cells_per_chunk=chunk)(**CASE.labelled())
    return sum(kept)


def test_chunks_keep_less_for_the_way_back() -> None:
    assert kept_for_the_way_back(2) < kept_for_the_way_back(None) / 4


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    model, batch = model_with(masked_weight=2.0, tissue_weight=3.0), CASE.labelled()
    found = model(**batch)
    assert found.losses.keys() == {"masked", "tissue", "contrastive"}
    expected = sum(getattr(model.config, f"{name}_weight") * value for name, value in found.losses.items())
    assert found.loss.item() == pytest.approx(expected.item())
    first, second = (nn.functional.normalize(one, dim=1) for one in (found.cell_embedding, found.view_embedding))
    similarity = (first @ second.T / model.config.contrastive_temperature).exp()
    contrast = -(similarity.diag() / similarity.sum(1)).log().mean()
    assert torch.allclose(found.losses["contrastive"], contrast.to(found.losses["contrastive"].dtype), atol=1e-5)


def test_evaluation_and_missing_labels_leave_parts_out() -> None:
    model, batch = model_with().eval(), CASE.labelled()
    assert model(**batch).losses.keys() == {"masked", "tissue"}
    tissues = batch.pop("tissues")
    batch.pop("labels")
    assert model(**batch).loss is None
    assert model(**batch, tissues=tissues).losses.keys() == {"tissue"}
    assert model.train()(**batch).losses.keys() == {"contrastive"}


def test_a_hidden_value_follows_from_the_cell_alone() -> None:
    batch, config = CASE.inputs(), CASE.config(mask_value_id=0)
    draws, names = CellDraws(3, step="mask/0"), [f"cell {row}" for row in range(8)]
    hidden, labels = mask_values(batch["values"], config, draws=draws, cell_ids=names)
    alone = mask_values(CASE.inputs([4])["values"], config, draws=draws, cell_ids=names[4:5])
    length = alone[0].shape[1]
    assert torch.equal(alone[0], hidden[4:5, :length])
    assert torch.equal(alone[1], labels[4:5, :length])
    chosen, n_genes = labels != -100, batch["attention_mask"].sum(1) - 1
    assert (chosen.sum(1) == (0.15 * n_genes).ceil()).all()
    assert not chosen[:, 0].any()
    assert not (chosen & (batch["attention_mask"] == 0)).any()
    assert torch.equal(labels[chosen], batch["values"][chosen])
    assert (hidden[chosen] == 0).all()
    assert torch.equal(hidden[~chosen], batch["values"][~chosen])
