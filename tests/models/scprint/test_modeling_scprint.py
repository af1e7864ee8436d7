"""scPRINT's cell tokens, heads and losses do what the paper says, in every layout of the released versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from models.examples import Case, example_of
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from scfm_hf.models.scprint.decoders_scprint import Bottleneck
from scfm_hf.models.scprint.losses_scprint import contrast_of_passes, dissimilarity_loss, hierarchical_loss
from scfm_hf.training import lora_config

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

WHOLE = Case(example_of("scprint"), "ScPrintForPreTraining")
BASE = Case(example_of("scprint"), "ScPrintModel")
LAYOUTS: dict[str, dict[str, Any]] = {
    "version 1": {"base_first": True},
    "version 2": {},
    "metacell": {"metacell": True},
    "bottlenecks": {"class_bottlenecks": {"cell_type": 3, "sex": 2}},
    "cell blocks": {"cell_blocks": True, "depth_token": False},
    "sums": {"normalization": "sum"},
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@torch.no_grad()
def run(case: Case, layout: dict[str, Any] | None = None, **changes: Any) -> Any:
    return case.model(**(layout or {}))(**{**case.inputs(), **changes})


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


@layouts
def test_the_order_of_genes_means_nothing(layout: dict[str, Any]) -> None:
    inputs = BASE.inputs()
    order = torch.randperm(inputs["input_ids"].shape[1], generator=torch.Generator().manual_seed(0))
    moved = {name: value[:, order] if value.ndim == 2 else value for name, value in inputs.items()}
    assert close(run(BASE, layout)["cell_states"], run(BASE, layout, **moved)["cell_states"])


@layouts
def test_there_is_a_token_a_class_and_padding_is_not_seen(layout: dict[str, Any]) -> None:
    config = BASE.config(**layout)
    found = run(BASE, layout)
    assert found.cell_states.shape[1] == config.n_cell_tokens == config.first_class + 3
    assert found.last_hidden_state.shape[:2] == BASE.inputs()["input_ids"].shape
    alone = BASE.inputs([1])
    with torch.no_grad():
        assert close(BASE.model(**layout)(**alone).cell_states, found.cell_states[1:2])


@layouts
def test_the_embedding_is_the_mean_of_the_chosen_classes(layout: dict[str, Any]) -> None:
    found, first = run(BASE, layout), BASE.config(**layout).first_class
    assert close(found.cell_embedding, found.cell_states[:, [first, first + 2]].mean(1))
    found = run(BASE, {**layout, "pooling": "mean"})
    assert close(found.cell_embedding, found.cell_states.mean(1))


@layouts
def test_predicted_means_share_the_total_of_the_cell(layout: dict[str, Any]) -> None:
    totals = WHOLE.inputs()["values"].sum(1)
    found = run(WHOLE, layout)
    for mean in (found.mean, found.cell_mean):
        assert close(mean.sum(1) / totals, torch.ones(len(totals)))
    assert (found.mean[WHOLE.inputs()["attention_mask"] == 0] == 0).all()
    assert close(run(WHOLE, layout, total=3 * totals).mean, 3 * found.mean)


@layouts
def test_a_deeper_cell_is_another_cell(layout: dict[str, Any]) -> None:
    depth = WHOLE.inputs()["depth"]
    assert not close(run(WHOLE, layout, depth=4 * depth).zero_logits, run(WHOLE, layout).zero_logits)


@layouts
def test_counts_are_generated_from_the_cell_alone(layout: dict[str, Any]) -> None:
    inputs, model = WHOLE.inputs(), WHOLE.model(**layout)
    with torch.no_grad():
        cell = model(**inputs)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask", "depth")}
        made = model(**given, cell_states=cell.cell_states, total=inputs["values"].sum(1))
        other = model(**given, cell_states=cell.cell_states.flip(0), total=inputs["values"].sum(1))
    assert made.mean.isfinite().all()
    assert not close(made.mean, other.mean)
    assert (made.cell_states is None) == WHOLE.config(**layout).cell_blocks
    with pytest.raises(ValueError, match="total="):
        model(**given, cell_states=cell.cell_states)


def test_hidden_expression_is_not_seen() -> None:
    inputs = BASE.inputs()
    masked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    masked[:, 0] = True
    changed = inputs["values"].clone()
    changed[:, 0] += 5
    assert close(run(BASE, masked=masked).cell_states, run(BASE, masked=masked, values=changed).cell_states)
    assert not close(run(BASE).cell_states, run(BASE, values=changed).cell_states)


def test_a_metacell_is_told_apart() -> None:
    layout = LAYOUTS["metacell"]
    flags = torch.ones(len(BASE.inputs()["depth"]), dtype=torch.long)
    assert close(run(BASE, layout).cell_states, run(BASE, layout, is_metacell=0 * flags).cell_states)
    assert not close(run(BASE, layout).cell_states, run(BASE, layout, is_metacell=flags).cell_states)


def test_with_cell_blocks_genes_do_not_see_the_cell_tokens() -> None:
    model = BASE.model(**LAYOUTS["cell blocks"])
    with torch.no_grad():
        before = model(**BASE.inputs()).last_hidden_state
        model.class_encoder.weight.add_(1)
        assert torch.equal(model(**BASE.inputs()).last_hidden_state, before)


def test_a_bottleneck_lets_few_states_through() -> None:
    torch.manual_seed(0)
    squeezed = Bottleneck(8, 2)
    states = 5 * torch.randn(200, 8)
    states.requires_grad_(True)
    found = squeezed(states)
    assert len(found.detach().round(decimals=4).unique(dim=0)) <= 4
    found.sum().backward()
    assert states.grad.abs().max() > 0


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_group_is_met_by_any_of_its_leaves() -> None:
    groups = {"3": [0, 1]}
    of_group = torch.tensor([3])
    one, other, wrong = (torch.tensor([[a, b, c]]) for a, b, c in ((9.0, -9, -9), (-9, 9.0, -9), (-9, -9, 9.0)))
    assert hierarchical_loss(one, of_group, groups) < 0.01
    assert hierarchical_loss(other, of_group, groups) < 0.01
    assert hierarchical_loss(wrong, of_group, groups) > 1
    assert hierarchical_loss(other, torch.tensor([0]), groups) > 1, "a leaf is met by itself alone"
    assert hierarchical_loss(wrong, torch.tensor([-1]), groups) == 0, "an unknown label costs nothing"


def test_what_a_cell_costs_depends_on_no_other_unless_asked() -> None:
    logits, groups = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), {"3": [0, 1]}
    classes = torch.tensor([2, 3])
    for counts_groups in (False, True):
        options = {"groups": groups, "counts_groups": counts_groups}
        alone = [hierarchical_loss(logits[row, None], classes[row, None], **options) for row in (0, 1)]
        assert close(hierarchical_loss(logits, classes, **options), sum(alone) / 2) == (not counts_groups)


def test_labels_are_named() -> None:
    model = WHOLE.model(label_names={"cell_type": {"1": "CL:0000236"}})
    scores = (torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 0, 1]]))
    assert model.predicted_labels(scores) == {"cell_type": ["CL:0000236"], "sex": ["0"], "disease": ["2"]}


def test_a_label_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="7"):
        hierarchical_loss(torch.zeros(1, 3), torch.tensor([7]), {"3": [0, 1]})


@pytest.mark.parametrize("first_version", [False, True])
def test_alike_tokens_cost_more(first_version: bool) -> None:
    same = torch.ones(2, 3, 4, requires_grad=True)
    apart = torch.eye(4)[:3].expand(2, 3, 4)
    loss = dissimilarity_loss(same, first_version=first_version)
    assert loss > dissimilarity_loss(apart, first_version=first_version)
    loss.backward()
    assert same.grad.isfinite().all()


def test_passes_that_tell_cells_apart_cost_less() -> None:
    cells = torch.eye(4)
    assert contrast_of_passes([cells, cells], 0.5) < contrast_of_passes([cells, cells.flip(0)], 0.5)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    model = WHOLE.model(num_batches=2, similarity_weight=0.3)
    batch_ids = torch.arange(len(WHOLE.inputs()["depth"])) % 2
    found = model(**WHOLE.labelled(), batch_ids=batch_ids)
    wanted = {"expression", "cell_expression", "class", "adversarial", "batch", "dissimilarity", "similarity"}
    assert set(found.terms) == wanted
    assert close(found.loss, sum(model.weights[name] * term for name, term in found.terms.items()))


def test_adversarial_terms_push_the_encoder_and_the_head_in_opposite_directions() -> None:
    model = WHOLE.model(num_batches=2)
    batch_ids = torch.arange(len(WHOLE.inputs()["depth"])) % 2
    model(**WHOLE.inputs(), batch_ids=batch_ids).terms["batch"].backward()
    with torch.no_grad():
        before = model(**WHOLE.inputs(), batch_ids=batch_ids).terms["batch"]
        model.scprint.norm.weight.sub_(0.05 * model.scprint.norm.weight.grad.sign())
        assert model(**WHOLE.inputs(), batch_ids=batch_ids).terms["batch"] > before


# --------------------------------------------------------------------------------------------------------- fine-tuning


def test_an_adapter_learns_the_cell_types_of_real_cells(human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    example = example_of("scprint")
    types = human_pbmc.obs["cell_type"].astype("category").cat.codes.to_numpy()
    cells = human_pbmc[types < 2].copy()
    cells.var_names = cells.var["ensembl_id"].to_numpy()
    batch = example.tokenizer(cells, padding=True, return_tensors="np", min_overlap=0.0, empty_cells="keep")
    dataset = Dataset.from_dict({**batch, "labels": types[types < 2].astype("int64")})
    torch.manual_seed(0)
    model = Case(example, "ScPrintForSequenceClassification").model()
    adapted = get_peft_model(model, lora_config(model, r=4))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        max_steps=30, per_device_train_batch_size=16, learning_rate=1e-2,
    )  # fmt: skip
    trainer = Trainer(adapted, arguments, train_dataset=dataset, eval_dataset=dataset)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"class_sizes": [4]}, "one size a name"),
        ({"pooled_classes": ["tissue"]}, "tissue"),
        ({"class_bottlenecks": {"tissue": 2}}, "tissue"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"normalization": "raw"}, "neither"),
        ({"gene_vector_size": 4}, "squeezed, not stretched"),
    ],
)
def test_options_that_cannot_be_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BASE.config(**wrong)


def test_inputs_that_do_not_suffice_are_named() -> None:
    model, inputs = BASE.model(), BASE.inputs()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(values=inputs["values"])
    with pytest.raises(ValueError, match="Give counts as values="):
        model(input_ids=inputs["input_ids"])
