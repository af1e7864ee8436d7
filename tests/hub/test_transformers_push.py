"""transformers' and PEFT's own ways to a hub work as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hub.small_models import add_lora, make_bert, results
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerFast

from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from hub_server import HubServer

pytestmark = pytest.mark.hub


def test_model_and_tokenizer_are_pushed_and_loaded(
    hub: HubServer, repo_id: str, bert: BertModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    bert.push_to_hub(repo_id)
    tokenizer.push_to_hub(repo_id)
    assert torch.equal(results(AutoModel.from_pretrained(repo_id)), results(bert))
    cell = "ENSG00000000003 ENSG00000000001"
    assert AutoTokenizer.from_pretrained(repo_id)(cell)["input_ids"] == tokenizer(cell)["input_ids"] == [5, 3]


def test_shards_are_pushed_and_loaded(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    bert.push_to_hub(repo_id, max_shard_size="10KB")
    assert "model.safetensors.index.json" in hub.state.repository(repo_id).files
    assert torch.equal(results(AutoModel.from_pretrained(repo_id)), results(bert))


def test_revision_and_private_repository(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    bert.push_to_hub(repo_id, private=True, revision="trial")
    assert torch.equal(results(AutoModel.from_pretrained(repo_id, revision="trial")), results(bert))
    with pytest.raises(OSError, match="not a local folder and is not a valid model identifier"):
        AutoModel.from_pretrained(repo_id, token="hf_guest", revision="trial")


def test_adapter_is_pushed_and_loaded(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    bert.push_to_hub(repo_id)
    adapted = add_lora(BertModel.from_pretrained(repo_id).eval())
    adapted.push_to_hub(f"{repo_id}-adapter")
    assert torch.equal(results(PeftModel.from_pretrained(make_bert(), f"{repo_id}-adapter").eval()), results(adapted))


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_is_found_by_the_auto_classes(hub: HubServer, repo_id: str, family: str) -> None:
    spec = families()[family]
    torch.manual_seed(0)
    model = spec.load_class(spec.class_names[0])(spec.load_config_class()(**spec.tiny))
    model.push_to_hub(repo_id)
    assert type(AutoConfig.from_pretrained(repo_id)) is spec.load_config_class()
    loaded = AutoModel.from_pretrained(repo_id)
    assert type(loaded) is type(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())
