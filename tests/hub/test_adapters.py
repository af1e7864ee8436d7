"""An adapter is saved alone, comes back with the same results, and is refused on any base but its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hub.small_models import add_lora, make_bert, make_classifier, results
from huggingface_hub import HfApi
from peft import IA3Config, PeftModel, PromptTuningConfig, get_peft_model
from transformers import BertForSequenceClassification, BertModel

from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.hub import load_adapter, merge_adapter, pull, push, save_adapter, weights_digest
from scfm_hf.models.registry import families
from scfm_hf.training.adapters import lora_config

if TYPE_CHECKING:
    from pathlib import Path

    from hub_server import HubServer

pytestmark = pytest.mark.hub


# Saving and loading


def test_adapter_folder_holds_the_adapter_and_its_record_alone(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "scfm_adapter.json",
    }


def test_results_are_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    adapted = add_lora(make_bert())
    assert not torch.equal(results(adapted), results(make_bert()))
    save_adapter(adapted, tmp_path / "adapter")
    assert torch.equal(results(load_adapter(tmp_path / "adapter", base=make_bert()).eval()), results(adapted))


def test_head_that_the_adapter_brings_may_be_fresh_in_the_base(tmp_path: Path) -> None:
    adapted = add_lora(make_classifier(), task_type="SEQ_CLS")
    save_adapter(adapted, tmp_path / "adapter")
    base = make_classifier()
    torch.nn.init.normal_(base.classifier.weight)
    assert torch.equal(results(load_adapter(tmp_path / "adapter", base=base).eval()), results(adapted))


def test_adapter_of_another_name_loads_too(tmp_path: Path) -> None:
    adapted = get_peft_model(make_bert(), add_lora(make_bert()).peft_config["default"], adapter_name="mine").eval()
    save_adapter(adapted, tmp_path / "adapter")
    assert torch.equal(results(load_adapter(tmp_path / "adapter", base=make_bert()).eval()), results(adapted))


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    (tmp_path / "adapter" / "old.txt").write_text("old")
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_training_goes_on_only_where_it_is_asked_for(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")

    def trainable(model: PeftModel) -> int:
        return sum(parameter.requires_grad for parameter in model.parameters())

    assert trainable(load_adapter(tmp_path / "adapter", base=make_bert())) == 0
    assert trainable(load_adapter(tmp_path / "adapter", base=make_bert(), trainable=True)) == 8


@pytest.mark.parametrize("family", sorted(families()))
def test_adapter_of_every_family_comes_back(family: str, tmp_path: Path) -> None:
    spec = families()[family]

    def make_base() -> torch.nn.Module:
        torch.manual_seed(0)
        return spec.load_class(spec.class_names[0])(spec.load_config_class()(**spec.tiny)).eval()

    adapted = get_peft_model(make_base(), lora_config(make_base()))
    save_adapter(adapted, tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter", base=make_base())
    before, after = adapted.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Bases that are refused


def test_base_with_other_weights_is_refused(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    base = make_bert()
    base.embeddings.LayerNorm.bias.data[3] += 1e-6
    with pytest.raises(CompatibilityError, match=r"1 of 39 weights differ \(embeddings.LayerNorm.bias\)"):
        load_adapter(tmp_path / "adapter", base=base)


def test_base_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    torch.manual_seed(0)
    deeper = BertModel(type(make_bert().config)(**{**make_bert().config.to_dict(), "num_hidden_layers": 3}))
    with pytest.raises(CompatibilityError, match="weights differ"):
        load_adapter(tmp_path / "adapter", base=deeper)


def test_base_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert(vocabulary_digest="a" * 64)), tmp_path / "adapter")
    with pytest.raises(CompatibilityError, match="another vocabulary"):
        load_adapter(tmp_path / "adapter", base=make_bert(vocabulary_digest="b" * 64))


def test_base_in_a_wider_type_is_rounded_to_be_compared(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert().to(torch.bfloat16)), tmp_path / "adapter")
    load_adapter(tmp_path / "adapter", base=make_bert())
    with pytest.raises(CompatibilityError, match="weights differ"):
        load_adapter(tmp_path / "adapter", base=make_bert(seed=1))


def test_base_in_a_narrower_type_goes_by_its_name(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    push(make_bert(), repo_id)
    push(make_bert(seed=1), f"{repo_id}-other")
    save_adapter(add_lora(BertModel.from_pretrained(repo_id)), tmp_path / "adapter")
    load_adapter(tmp_path / "adapter", base=BertModel.from_pretrained(repo_id, dtype=torch.bfloat16))
    with pytest.raises(CompatibilityError, match="cannot be compared"):
        load_adapter(tmp_path / "adapter", base=BertModel.from_pretrained(f"{repo_id}-other", dtype=torch.bfloat16))


def test_refused_base_is_left_as_it_was(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    base = make_bert(seed=1)
    names = list(base.state_dict())
    with pytest.raises(CompatibilityError):
        load_adapter(tmp_path / "adapter", base=base)
    assert list(base.state_dict()) == names


def test_adapter_without_a_record_is_loaded_with_a_warning(tmp_path: Path) -> None:
    adapted = add_lora(make_bert())
    save_adapter(adapted, tmp_path / "adapter")
    (tmp_path / "adapter" / "scfm_adapter.json").unlink()
    with pytest.warns(UserWarning, match="does not say which base"):
        load_adapter(tmp_path / "adapter", base=make_bert())


# Damage


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "scfm_adapter.json"])
def test_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    path = tmp_path / "adapter" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapter(tmp_path / "adapter", base=make_bert())


def test_missing_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="incomplete"):
        load_adapter(tmp_path / "adapter", base=make_bert())


def test_merged_adapter_is_not_saved_as_one(tmp_path: Path) -> None:
    adapted = add_lora(make_bert())
    adapted.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        save_adapter(adapted, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_several_adapters_are_not_saved_as_one(tmp_path: Path) -> None:
    adapted = add_lora(make_bert())
    adapted.add_adapter("second", adapted.peft_config["default"])
    with pytest.raises(ValueError, match="2 adapters"):
        save_adapter(adapted, tmp_path / "adapter")


# Through the hub


def test_pushed_adapter_finds_its_base_by_itself(hub: HubServer, repo_id: str) -> None:
    push(make_bert(), repo_id)
    model = BertForSequenceClassification.from_pretrained(repo_id, id2label={0: "B cell", 1: "T cell"}).eval()
    adapted = add_lora(model, task_type="SEQ_CLS")
    push(adapted, f"{repo_id}-adapter")
    loaded = load_adapter(f"{repo_id}-adapter").eval()
    assert torch.equal(results(loaded), results(adapted))
    assert loaded.config.id2label == {0: "B cell", 1: "T cell"}


def test_pushed_adapter_is_small_and_names_its_base(hub: HubServer, repo_id: str) -> None:
    push(make_bert(), repo_id)
    commit = HfApi().model_info(repo_id).sha
    push(add_lora(BertModel.from_pretrained(pull(repo_id))), f"{repo_id}-adapter")
    files = hub.state.repository(f"{repo_id}-adapter").files
    assert set(files) - {".gitattributes"} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "scfm_adapter.json",
        "scfm_manifest.json",
        "README.md",
    }
    record = json.loads(files["scfm_adapter.json"].content)
    assert (record["base_model"], record["base_revision"]) == (repo_id, commit)
    assert f"base_model: {repo_id}" in files["README.md"].content.decode()
    config = json.loads(files["adapter_config.json"].content)
    assert (config["base_model_name_or_path"], config["revision"]) == (repo_id, commit)


def test_base_that_changed_on_the_hub_is_taken_at_the_recorded_commit(hub: HubServer, repo_id: str) -> None:
    push(make_bert(), repo_id)
    adapted = add_lora(BertModel.from_pretrained(repo_id).eval())
    push(adapted, f"{repo_id}-adapter")
    push(make_bert(seed=1), repo_id)
    assert torch.equal(results(load_adapter(f"{repo_id}-adapter").eval()), results(adapted))
    with pytest.raises(CompatibilityError, match=f"Load the adapter on {repo_id} at "):
        load_adapter(f"{repo_id}-adapter", base=repo_id)


def test_adapter_on_a_base_that_was_never_on_a_hub_asks_for_it(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    with pytest.raises(CompatibilityError, match="pass it as base="):
        load_adapter(tmp_path / "adapter")


def test_class_named_in_a_file_is_taken_from_known_places_only(tmp_path: Path) -> None:
    save_adapter(add_lora(make_bert()), tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "scfm_adapter.json").read_text())
    record["base_class"] = "Path"
    (tmp_path / "adapter" / "scfm_adapter.json").write_text(json.dumps(record))
    make_bert().save_pretrained(tmp_path / "base")
    with pytest.raises(CompatibilityError, match="neither scfm_hf nor transformers"):
        load_adapter(tmp_path / "adapter", base=tmp_path / "base")


# Merging


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_merged_model_gives_the_results_of_the_adapter(hub: HubServer, repo_id: str, kind: str) -> None:
    if kind == "ia3":
        config = IA3Config(target_modules=["query", "output.dense"], feedforward_modules=["output.dense"])
        adapted = get_peft_model(make_bert(), config).eval()
        with torch.no_grad():
            for parameter in (one for one in adapted.parameters() if one.requires_grad):
                parameter.mul_(1.5)
    else:
        adapted = add_lora(make_bert(), use_dora=kind == "dora")
    expected = results(adapted)
    merged = merge_adapter(adapted)
    assert type(merged) is BertModel
    torch.testing.assert_close(results(merged), expected, rtol=1e-5, atol=1e-5)
    push(merged, repo_id)
    assert torch.equal(results(BertModel.from_pretrained(pull(repo_id)).eval()), results(merged))


def test_prompts_cannot_be_merged() -> None:
    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING changes the input"):
        merge_adapter(get_peft_model(make_bert(), config))


# The digest


def test_digest_is_of_the_weights_alone() -> None:
    assert weights_digest(make_bert()) == weights_digest(make_bert(hidden_dropout_prob=0.5))
    assert weights_digest(make_bert()) != weights_digest(make_bert(seed=1))
    assert weights_digest(make_bert()) != weights_digest(make_bert().to(torch.bfloat16))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["pooler"]}])
def test_digest_ignores_adapters(options: dict[str, object]) -> None:
    without = options.get("modules_to_save", ())
    assert weights_digest(add_lora(make_bert(), **options), without=without) == weights_digest(
        make_bert(), without=without
    )


def test_digest_of_weights_that_are_not_in_memory_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not in memory"):
        weights_digest(make_bert().to("meta"))
