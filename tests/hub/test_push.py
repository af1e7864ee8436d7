"""Pushing puts model, tokenizer, card and manifest on the hub in one commit, whole or not at all."""

from __future__ import annotations

import tempfile
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hub.small_models import add_lora, make_bert, make_classifier, results
from hub_server import HubServer, Reply, Request
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerFast

from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.hub import Manifest, SourceFile, pull, push
from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.hub

FRESH_PROCESS = """
import json, sys, torch
import scfm_hf
from scfm_hf.hub import pull
from transformers import AutoModel, AutoTokenizer
folder = pull(sys.argv[1])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
with torch.no_grad():
    state = model(**tokenizer(sys.argv[2], return_tensors="pt")).last_hidden_state
print(json.dumps([tokenizer(sys.argv[2])["input_ids"], state.tolist()]))
"""


def titles(repo_id: str) -> list[str]:
    return [commit.title for commit in HfApi().list_repo_commits(repo_id)]


def test_model_tokenizer_card_and_manifest_are_one_commit(
    hub: HubServer, repo_id: str, bert: BertModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    url = push(bert, repo_id, tokenizer=tokenizer)
    files = hub.state.repository(repo_id).files
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert set(files) == wanted | {"scfm_manifest.json", ".gitattributes"}
    assert titles(repo_id) == ["Upload model", "initial commit"]
    assert url == f"{hub.url}/{repo_id}/commit/{HfApi().model_info(repo_id).sha}"


@pytest.mark.slow
def test_fresh_process_pulls_equal_tokens_and_predictions(
    hub: HubServer, repo_id: str, bert: BertModel, tokenizer: PreTrainedTokenizerFast, run_python: Any
) -> None:
    push(bert, repo_id, tokenizer=tokenizer)
    cell = "ENSG00000000003 ENSG00000000001 ENSG00000000017"
    tokens, state = run_python(FRESH_PROCESS, repo_id, cell)
    assert tokens == tokenizer(cell)["input_ids"]
    with torch.no_grad():
        assert state == bert(**tokenizer(cell, return_tensors="pt")).last_hidden_state.tolist()


def classes_of_all_families() -> list[tuple[str, str]]:
    return [(spec.name, name) for spec in families().values() for name in spec.class_names]


@pytest.mark.parametrize(("family", "class_name"), classes_of_all_families())
def test_every_class_of_every_family_comes_back_as_it_was(
    hub: HubServer, repo_id: str, family: str, class_name: str
) -> None:
    spec = families()[family]
    torch.manual_seed(0)
    labels = {"task_labels": {"cell_type": 3, "disease": 2}} if "MultiTask" in class_name else {}
    model = spec.load_class(class_name)(spec.load_config_class()(**spec.tiny, **labels))
    push(model, repo_id)
    pulled = spec.load_class(class_name).from_pretrained(pull(repo_id))
    before, after = model.state_dict(), pulled.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    manifest = Manifest.read(pull(repo_id))
    # Weights that were made here are not under the licence of the original's.
    assert (manifest.family, manifest.code_licence, manifest.weights_licence) == (family, spec.code_licence, None)


def test_the_same_again_makes_no_commit(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    assert push(bert, repo_id) == push(bert, repo_id)
    assert len(titles(repo_id)) == 2


def test_private_repository_is_made_private(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id, private=True)
    assert hub.state.repository(repo_id).private


def test_what_should_be_private_is_not_pushed_to_a_public_repository(
    hub: HubServer, repo_id: str, bert: BertModel
) -> None:
    HfApi().create_repo(repo_id)
    with pytest.raises(ValueError, match="is public, so nothing was pushed"):
        push(bert, repo_id, private=True)
    assert titles(repo_id) == ["initial commit"]


def test_branch_is_made_and_main_left_alone(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id)
    other = make_bert(seed=1)
    push(other, repo_id, revision="trial", commit_message="Another seed")
    assert torch.equal(results(AutoModel.from_pretrained(pull(repo_id, revision="trial"))), results(other))
    assert torch.equal(results(AutoModel.from_pretrained(pull(repo_id))), results(bert))


def test_pull_request_is_opened_by_someone_who_may_not_write(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id)
    other = make_bert(seed=1)
    url = push(other, repo_id, create_pr=True, token="hf_guest")
    assert url == f"{hub.url}/{repo_id}/discussions/1"
    assert len(titles(repo_id)) == 2
    assert torch.equal(results(AutoModel.from_pretrained(pull(repo_id, revision="refs/pr/1"))), results(other))


def test_somebody_elses_commit_meanwhile_is_not_overwritten(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id)

    def commit_first(request: Request) -> None:
        if "/preupload/" in request.path:
            hub.intercept = None
            HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="other.txt", repo_id=repo_id)

    hub.intercept = commit_first
    with pytest.raises(HfHubHTTPError, match="has changed since this push began") as error:
        push(make_bert(seed=1), repo_id)
    assert error.value.response.status_code == HTTPStatus.PRECONDITION_FAILED
    assert torch.equal(results(AutoModel.from_pretrained(pull(repo_id))), results(bert))


def test_failing_upload_leaves_the_repository_and_the_disk_as_they_were(
    hub: HubServer, repo_id: str, bert: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    push(bert, repo_id)
    hub.intercept = lambda request: Reply(b"{}", HTTPStatus.FORBIDDEN) if "/large-files/" in request.path else None
    with pytest.raises((HfHubHTTPError, RuntimeError)):
        push(make_bert(seed=2), repo_id)
    assert len(titles(repo_id)) == 2
    assert list(tmp_path.iterdir()) == []


def test_weights_of_an_earlier_push_do_not_stay_behind(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    """from_pretrained prefers model.safetensors to shards: old weights beside new shards would be loaded."""
    push(bert, repo_id)
    sharded = make_bert(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        sharded.save_pretrained(folder, max_shard_size="10KB")
        push(folder, repo_id)
    assert "model.safetensors" not in hub.state.repository(repo_id).files
    assert torch.equal(results(AutoModel.from_pretrained(pull(repo_id))), results(sharded))
    push(bert, repo_id)
    assert [name for name in hub.state.repository(repo_id).files if name.startswith("model")] == ["model.safetensors"]


def test_pushed_model_replaces_an_adapter(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    """from_pretrained would otherwise follow adapter_config.json to another base."""
    push(add_lora(make_bert()), repo_id)
    push(bert, repo_id)
    assert not [name for name in hub.state.repository(repo_id).files if "adapter" in name]


def test_folder_is_pushed_without_the_states_of_training(
    hub: HubServer, repo_id: str, bert: BertModel, tmp_path: Path
) -> None:
    bert.save_pretrained(tmp_path)
    (tmp_path / "checkpoint-10").mkdir()
    for name in ("checkpoint-10/model.safetensors", "optimizer.pt", "training_args.bin", ".hidden", "genes.txt"):
        (tmp_path / name).write_bytes(b"x")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    push(tmp_path, repo_id)
    pushed = set(hub.state.repository(repo_id).files) - {".gitattributes"}
    assert pushed == {"config.json", "model.safetensors", "genes.txt", "README.md", "scfm_manifest.json"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("files", [[], ["config.json"], ["model.safetensors"], ["geneformer.pt"]])
def test_folder_without_a_model_is_refused(hub: HubServer, repo_id: str, tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="holds no saved model"):
        push(tmp_path, repo_id)
    assert hub.log == []


def test_tokenizer_with_another_vocabulary_is_refused(
    hub: HubServer, repo_id: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(CompatibilityError, match=r"sha256 dddddddddddd…\) is not the model's \(eeeeeeeeeeee…"):
        push(make_bert(vocabulary_digest="e" * 64), repo_id, tokenizer=tokenizer)
    assert hub.log == []


def test_no_path_of_this_machine_is_pushed(
    hub: HubServer, repo_id: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make_classifier().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = make_classifier().from_pretrained(tmp_path / "base")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "base")
    push(model, repo_id, tokenizer=loaded)
    push(add_lora(model), repo_id, revision="adapter")
    repository = hub.state.repository(repo_id)
    pushed: list[Mapping[str, Any]] = [commit.files for commit in repository.commits.values()]
    assert not [name for files in pushed for name, file in files.items() if str(tmp_path).encode() in file.content]


# What the manifest and the card keep


def converted(folder: Path, model: BertModel) -> None:
    """Save a model as a conversion does, with a manifest."""
    model.save_pretrained(folder)
    source = SourceFile(name="original.ckpt", sha256="a" * 64, size=3)
    Manifest(sources=(source,), parity={"cell_embedding": 2e-7}, weights_licence="MIT").write(folder)


def test_model_as_it_was_converted_keeps_its_sources_and_parity(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    converted(tmp_path, make_bert())
    push(BertModel.from_pretrained(tmp_path), repo_id)
    manifest = Manifest.read(pull(repo_id))
    assert manifest.parity == {"cell_embedding": 2e-7}
    assert manifest.sources[0].name == "original.ckpt"
    assert manifest.model_id == repo_id


def test_model_trained_further_names_its_base_and_claims_no_parity(
    hub: HubServer, repo_id: str, tmp_path: Path
) -> None:
    converted(tmp_path, make_bert())
    push(tmp_path, repo_id)
    model = BertModel.from_pretrained(repo_id)
    model.embeddings.word_embeddings.weight.data += 1
    push(model, f"{repo_id}-tuned")
    manifest = Manifest.read(pull(f"{repo_id}-tuned"))
    assert manifest.parity == {}
    assert manifest.sources == ()
    assert (manifest.base_model, manifest.base_revision) == (repo_id, HfApi().model_info(repo_id).sha)
    assert manifest.weights_licence == "MIT"


def test_what_people_wrote_into_the_card_stays(hub: HubServer, repo_id: str, bert: BertModel) -> None:
    push(bert, repo_id)
    card = (pull(repo_id) / "README.md").read_text(encoding="utf-8")
    edited = card.replace("tags:", "license: mit\ntags:").replace(
        "<!-- scfm_hf: facts -->", "Mine.\n\n<!-- scfm_hf: facts -->"
    )
    HfApi().create_commit(repo_id, [CommitOperationAdd("README.md", edited.encode())], commit_message="Edit the card")
    push(make_bert(seed=1, num_labels=5), repo_id)
    renewed = (pull(repo_id) / "README.md").read_text(encoding="utf-8")
    assert "Mine." in renewed
    assert "license: mit" in renewed
    assert renewed.count("<!-- scfm_hf: facts -->") == 1
    assert "LABEL_4" in renewed
