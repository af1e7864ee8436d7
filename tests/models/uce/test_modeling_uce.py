"""UCE's model: frozen proteins, padding, the head of expressed genes, fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from models.examples import Case, example_of
from transformers import Trainer, TrainingArguments

from scfm_hf.models.side_tables import SideTable
from scfm_hf.models.uce.proteins_uce import ProteinTable

if TYPE_CHECKING:
    from pathlib import Path

BASE, HEAD, CLASSES = (
    Case(example_of("uce"), name) for name in ("UceModel", "UceForPreTraining", "UceForSequenceClassification")
)


@torch.no_grad()
def embedding(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).cell_embedding


def test_the_cell_embedding_has_length_1_and_is_the_decoded_first_token() -> None:
    model, batch = BASE.model(), BASE.inputs()
    output = model(**batch)
    decoded = model.decode(output.last_hidden_state)[:, 0]
    assert torch.allclose(output.cell_embedding, decoded / decoded.norm(dim=1, keepdim=True), atol=1e-6)
    with model.embedding_options(pooling="mean"):
        assert embedding(model, batch).shape[1] == model.config.hidden_size


def test_padding_is_attended_to_on_request_alone() -> None:
    model, batch = BASE.model(), BASE.inputs()
    shortest = int(batch["attention_mask"].sum(1).argmin())
    length = int(batch["attention_mask"][shortest].sum())
    alone = {name: values[[shortest], :length] for name, values in batch.items()}
    expected = embedding(model, alone)
    assert torch.allclose(embedding(model, batch)[[shortest]], expected, atol=1e-6)
    for implementation in ("sdpa", "eager"):
        legacy = BASE.model(padding_bias="legacy")
        legacy.set_attn_implementation(implementation)
        assert torch.allclose(embedding(legacy, alone), expected, atol=1e-6)
        assert not torch.allclose(embedding(legacy, batch)[[shortest]], expected, atol=1e-4)


def test_the_length_of_a_protein_does_not_matter_to_the_sentence() -> None:
    model, batch = BASE.model(), BASE.inputs()
    vectors = model.get_input_embeddings()(batch["input_ids"])
    given = {"inputs_embeds": 3 * vectors, "attention_mask": batch["attention_mask"]}
    assert torch.allclose(embedding(model, given), embedding(model, batch), atol=1e-5)


def test_the_table_is_no_parameter_and_grows_by_species_alone() -> None:
    model = BASE.model()
    assert not any("table" in name for name, _ in model.named_parameters())
    with pytest.raises(NotImplementedError, match="add_species"):
        model.resize_token_embeddings(200)


def test_rows_are_found_across_the_files_of_a_table() -> None:
    table = ProteinTable([3, 2, 2], 4)
    rows = np.arange(28, dtype=np.float32).reshape(7, 4)
    for part, some in zip(table.parts, np.split(rows, [3, 5]), strict=True):
        assert isinstance(part, SideTable)
        part.set_rows(some)
    ids = torch.tensor([[6, 0, 3], [2, 4, 5]])
    assert np.array_equal(table(ids).numpy(), rows[ids.numpy()])


def test_queries_have_length_1_unless_told_otherwise() -> None:
    model, batch = HEAD.model(), HEAD.inputs()
    logits = model(**batch).logits
    assert torch.allclose(model(**batch).expressed_probability, logits.sigmoid())
    assert not torch.allclose(HEAD.model(normalize_queries=False)(**batch).logits, logits)
    cells = embedding(model, batch)
    assert torch.allclose(model.predict(cells, batch["query_ids"]), logits, atol=1e-6)
    same = batch["query_ids"][0]
    assert torch.allclose(model.predict(cells, same)[0], logits[0], atol=1e-6)
    with pytest.raises(ValueError, match="query_ids="):
        model(batch["input_ids"])


def test_the_loss_is_the_binary_cross_entropy_of_labels_that_count() -> None:
    model, batch = HEAD.model(), HEAD.labelled()
    batch["labels"][:, :2] = -100
    output = model(**batch)
    wanted = batch["labels"][:, 2:].double()
    p = output.logits[:, 2:].double().sigmoid()
    expected = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    assert torch.isclose(output.loss.double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        {"padding_bias": "none"},
        {"norm_position": "residual"},
        {"hidden_size": 15, "num_attention_heads": 3},
        {"added_rows": [200]},
        {"pooling": "max"},
    ],
)
def test_configurations_that_cannot_be_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        BASE.config(**option)


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="context is 64"):
        BASE.model()(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("case", [CLASSES, HEAD], ids=lambda case: case.class_name)
def test_an_adapter_learns_real_cells_with_the_stock_trainer(case: Case, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tokenizer, cells = case.example.tokenizer, case.example.cells
    if case is HEAD:
        data = tokenizer.to_dataset(cells, withheld_share=0.2, n_queries=6)
        heads = ["expression"]
    else:
        cells = cells.copy()
        cells.obs["kind"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
        data = tokenizer.to_dataset(cells, labels="kind")
        heads = ["classifier"]
    adapted = get_peft_model(
        case.model(),
        LoraConfig(target_modules=list(case.spec.lora_targets), modules_to_save=heads, r=4),
    )
    arguments = TrainingArguments(
        tmp_path, max_steps=30, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], use_cpu=True,
        logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(adapted, arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
