"""Putting a model, its tokenizer, its card and its manifest on a hub in one commit."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from scfm_hf.cards.card import model_card, renew_card
from scfm_hf.cards.manifest import FILE_NAME, Manifest, library_versions
from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.hub import adapters
from scfm_hf.hub.errors import explain_hub_errors
from scfm_hf.hub.origin import origin_of
from scfm_hf.hub.weights import has_weights_of
from scfm_hf.models.registry import FamilySpec, families

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub.hf_api import ModelInfo
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What a folder may hold besides the model: states of a training run, and files that a file system or an editor leaves.
_NOT_PUSHED = (
    ".*",
    "*/.*",
    "__pycache__/*",
    "checkpoint-*/*",
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "trainer_state.json",
    "training_args.bin",
)
#: Weights of a model that was pushed earlier, which from_pretrained might take instead of the new ones.
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
_ADAPTER = ("adapter_model*", "adapter_config.json", adapters.FILE_NAME)


def push(
    model: PreTrainedModel | PeftModel | str | os.PathLike[str],
    repo_id: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Put a model on a hub: weights, tokenizer, card and manifest in one commit, so that all arrives or nothing does.

    Everything is written and checked on disk first. A repository that somebody else changes meanwhile is left alone
    (412). The text that people wrote into an existing card stays.

    Parameters
    ----------
    model
        A model, an adapter over a model (only the adapter is pushed, with the record of its base), or the folder of
        either.
    repo_id
        Name on the hub, ``owner/name``; made if it does not exist. The hub is the one that ``HF_ENDPOINT`` names.
    tokenizer
        The tokenizer that belongs to the model.
    private
        Whether a new repository is private. True is refused for one that exists and is public.
    revision
        Branch to push to, made from the main branch if it does not exist.
    create_pr
        Open a pull request instead.
    token
        Token of the account; the one of ``hf auth login`` or ``HF_TOKEN`` by default.
    commit_message
        By default it says what is pushed.

    Returns
    -------
    Address of the commit, or of the pull request.

    Raises
    ------
    CompatibilityError
        If tokenizer and model have different vocabularies.
    CheckpointError
        If the folder holds no model.
    ValueError
        If ``private=True`` and the repository is public.
    huggingface_hub.errors.HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
        What the hub client raises, with a line on what to do.
    """
    with tempfile.TemporaryDirectory(prefix="scfm-push-") as staging, explain_hub_errors(repo_id, revision=revision):
        written = Path(staging)
        files = _model_files(model, written) | _tokenizer_files(tokenizer, written)
        _refuse_other_vocabulary(files)
        api = HfApi(token=token, library_name="scfm_hf")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        if private and head.private is False:
            raise ValueError(
                f"{repo_id} exists and is public, so nothing was pushed. Make it private first, or choose another name."
            )
        manifest = _manifest(model, files, repo_id, token=token)
        files[FILE_NAME] = manifest.write(written)
        files["README.md"] = _card(manifest, files, api, head, written)
        done = api.create_commit(
            repo_id,
            [*_additions(files), *_deletions(files, head)],
            commit_message=commit_message or f"Upload {'adapter' if 'adapter_config.json' in files else 'model'}",
            revision=revision,
            create_pr=create_pr,
            parent_commit=head.sha,
        )
        return done.pr_url or done.commit_url


def _model_files(model: Any, written: Path) -> dict[str, Path]:
    """Path in the repository -> file on disk, of a model that is saved for it, or of a folder as it is."""
    if isinstance(model, str | os.PathLike):
        files = _files_below(Path(model))
        weights = any(fnmatch(name, pattern) for name in files for pattern in (*_WEIGHTS, "adapter_model*"))
        if not weights or not ({"config.json", "adapter_config.json"} & files.keys()):
            raise CheckpointError(
                f"{model} holds no saved model (config.json or adapter_config.json, with weights), so nothing was "
                "pushed. Convert an original's files first: scfm convert <folder> <output>."
            )
        return files
    folder = written / "model"
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        adapters.save_adapter(model, folder)
    else:
        model.save_pretrained(folder)
    return _files_below(folder)


def _tokenizer_files(tokenizer: PreTrainedTokenizerBase | None, written: Path) -> dict[str, Path]:
    """Files of a tokenizer that is saved for it."""
    if tokenizer is None:
        return {}
    tokenizer.save_pretrained(str(written / "tokenizer"))
    return _files_below(written / "tokenizer")


def _files_below(folder: Path) -> dict[str, Path]:
    """Path in the repository -> file on disk, without what is not part of a model."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not any(fnmatch(name, pattern) for pattern in _NOT_PUSHED)}


def _refuse_other_vocabulary(files: Mapping[str, Path]) -> None:
    """Raise CompatibilityError if the model's and the tokenizer's digests of the vocabulary differ."""
    wanted = _read_json(files, "config.json").get("vocabulary_digest")
    wanted = wanted or _read_json(files, adapters.FILE_NAME).get("vocabulary_digest")
    found = _read_json(files, "tokenizer_config.json").get("vocabulary_digest")
    if wanted and found and wanted != found:
        raise CompatibilityError(
            f"The tokenizer's vocabulary (sha256 {found[:12]}…) is not the model's ({wanted[:12]}…), so nothing was "
            "pushed. Pass the tokenizer that the model was trained with."
        )


def _manifest(model: Any, files: Mapping[str, Path], repo_id: str, *, token: str | bool | None) -> Manifest:
    """The manifest to push: the folder's or the origin's while the weights are the same, else a derived model's."""
    family = _family(files)
    plain = Manifest(
        model_id=repo_id,
        family=family.name if family else None,
        code_licence=family.code_licence if family else None,
        vocabulary_digest=_read_json(files, "config.json").get("vocabulary_digest"),
        libraries=library_versions(),
    )
    if FILE_NAME in files:
        return replace(Manifest.read(files[FILE_NAME]), model_id=repo_id, libraries=plain.libraries)
    if record := _read_json(files, adapters.FILE_NAME):
        return replace(
            plain,
            base_model=record["base_model"],
            base_revision=record["base_revision"],
            vocabulary_digest=record["vocabulary_digest"],
        )
    origin = origin_of(model) if not isinstance(model, str | os.PathLike) else None
    source = origin.manifest(token=token) if origin else None
    if origin is None:
        return plain
    if source and origin.folder and has_weights_of(model, origin.folder):
        return replace(source, model_id=repo_id, libraries=plain.libraries)
    base = origin.model_id if origin.model_id != repo_id else (source.base_model if source else None)
    derived = replace(plain, base_model=base, base_revision=origin.revision if base == origin.model_id else None)
    if source is None:
        return derived
    return replace(derived, code_licence=source.code_licence, weights_licence=source.weights_licence)


def _card(manifest: Manifest, files: Mapping[str, Path], api: HfApi, head: ModelInfo, written: Path) -> Path:
    """The card to push, with what people wrote into the folder's card or, if it has none, into the repository's."""
    config = _read_json(files, "config.json") or {"id2label": _read_json(files, adapters.FILE_NAME).get("id2label")}
    card = model_card(_family(files), config=config, manifest=manifest, adapter="adapter_config.json" in files)
    earlier = files.get("README.md")
    if earlier is None:
        with suppress(EntryNotFoundError):
            earlier = Path(api.hf_hub_download(head.id, "README.md", revision=head.sha))
    if earlier is not None:
        card = renew_card(ModelCard.load(earlier), card)
    path = written / "README.md"
    card.save(path)
    return path


def _family(files: Mapping[str, Path]) -> FamilySpec | None:
    """The family that the files belong to, if it is one of this library."""
    model_type = _read_json(files, "config.json").get("model_type")
    base_class = _read_json(files, adapters.FILE_NAME).get("base_class")
    matching = (spec for spec in families().values() if model_type == spec.model_type or base_class in spec.class_names)
    return next(matching, None)


def _additions(files: Mapping[str, Path]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]


def _deletions(files: Mapping[str, Path], head: ModelInfo) -> list[CommitOperationDelete]:
    """Weights of an earlier push that the new ones do not overwrite. An adapter leaves a model's weights alone."""
    stale = ("adapter_model*",) if "adapter_config.json" in files else (*_WEIGHTS, *_ADAPTER)
    there = [sibling.rfilename for sibling in head.siblings or []]
    return [
        CommitOperationDelete(path_in_repo=name)
        for name in there
        if name not in files and any(fnmatch(name, pattern) for pattern in stale)
    ]


def _read_json(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    """A JSON file among those to push; empty if it is not there."""
    return json.loads(files[name].read_text(encoding="utf-8")) if name in files else {}
