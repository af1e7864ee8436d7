"""Adapters: saved alone, with a record of the base they were trained on; refused on any other base.

PEFT puts an adapter on every base of the same shape without a word. The record, ``scfm_adapter.json`` in the adapter's
folder, holds the base's name, commit, vocabulary and a digest of each of its weights, and is compared on loading.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError

from scfm_hf.cards.manifest import library_versions
from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.folders import whole_folder
from scfm_hf.hub.origin import Origin, origin_of
from scfm_hf.hub.pull import pull
from scfm_hf.hub.weights import differing_weights, digest_of_digests, tensor_digests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel
    from transformers import PreTrainedModel

FILE_NAME = "scfm_adapter.json"


@dataclass(frozen=True, kw_only=True)
class AdapterRecord:
    """What an adapter's ``scfm_adapter.json`` says about its base.

    Parameters
    ----------
    base_model, base_revision
        Name on the hub and commit hash, where known.
    base_class
        Name of the base's class.
    id2label
        Names of the labels, for a base with a head that classifies.
    vocabulary_digest
        sha256 of the base's ordered vocabulary.
    weights_digest
        sha256 over all of the base's weights that the adapter does not bring itself.
    weights
        The same for each weight: name -> dtype, shape and sha256.
    modules_to_save
        Modules that the adapter brings whole; the base's own do not count.
    libraries
        Version of each library at the time of saving.
    """

    base_model: str | None
    base_revision: str | None
    base_class: str
    id2label: Mapping[str, str]
    vocabulary_digest: str | None
    weights_digest: str
    weights: Mapping[str, str]
    modules_to_save: tuple[str, ...]
    libraries: Mapping[str, str] = field(default_factory=library_versions)

    @classmethod
    def of(cls, model: PeftModel) -> Self:
        """Describe the base under an adapter."""
        base: Any = model.get_base_model()
        brought = tuple(sorted(getattr(model.peft_config[model.active_adapter], "modules_to_save", None) or ()))
        weights = tensor_digests(model, without=brought)
        origin = origin_of(base)
        return cls(
            base_model=origin.model_id,
            base_revision=origin.revision,
            base_class=type(base).__name__,
            id2label={str(number): label for number, label in (base.config.id2label or {}).items()},
            vocabulary_digest=getattr(base.config, "vocabulary_digest", None),
            weights_digest=digest_of_digests(weights),
            weights=weights,
            modules_to_save=brought,
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read it from an adapter's folder; None if the adapter was saved without one.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}). Fetch or save the adapter again.") from error


def save_adapter(model: PeftModel, folder: str | os.PathLike[str]) -> Path:
    """Save an adapter alone, with the record of its base. The folder appears whole, in the place of one that was there.

    Parameters
    ----------
    model
        A base with one adapter over it, as ``peft.get_peft_model`` makes it.
    folder
        Where to save.

    Raises
    ------
    ValueError
        If the model has several adapters, or if the adapter is merged into the base at the moment.
    """
    names = list(model.peft_config)
    if len(names) != 1:
        raise ValueError(
            f"The model has {len(names)} adapters ({', '.join(names)}), and save_adapter saves one. "
            "Call model.delete_adapter(name) for the others first."
        )
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise ValueError(
            "The adapter is merged into the base. Call model.unmerge_adapter() first, or save the merged model instead."
        )
    record = AdapterRecord.of(model)
    with whole_folder(folder, replace=True) as written:
        # An adapter holds no embeddings of the base; whoever trains them names them in modules_to_save.
        model.save_pretrained(str(written), save_embedding_layers=False)
        if names != ["default"]:
            shutil.copytree(written / names[0], written, dirs_exist_ok=True)
            shutil.rmtree(written / names[0])
        # PEFT's card is a form to fill in, and its configuration names the base by a path of this machine.
        (written / "README.md").unlink(missing_ok=True)
        _update_json(
            written / "adapter_config.json",
            base_model_name_or_path=record.base_model,
            revision=record.base_revision,
        )
        text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
        (written / FILE_NAME).write_text(text, encoding="utf-8")
        for path in written.glob("*.safetensors"):  # safetensors writes them readable by their writer alone
            path.chmod((written / FILE_NAME).stat().st_mode)
    return Path(folder)


def load_adapter(
    adapter: str | os.PathLike[str],
    *,
    base: PreTrainedModel | str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    trainable: bool = False,
) -> PeftModel:
    """Put an adapter on its base.

    Parameters
    ----------
    adapter
        A folder, or a name on the hub.
    base
        The base: a loaded model (it then carries the adapter), a folder, or a name on the hub. By default the one that
        the adapter was trained on, from the hub.
    revision, token, local_files_only
        As for :func:`scfm_hf.hub.pull`; ``revision`` is the adapter's.
    trainable
        Whether training goes on.

    Raises
    ------
    CompatibilityError
        If the base is not the one that the adapter was trained on, or if nothing says which one that is.
    CheckpointError
        If the adapter is damaged or incomplete.
    """
    from peft import PeftModel

    folder = Path(adapter)
    if not folder.is_dir():
        folder = pull(str(adapter), revision=revision, token=token, local_files_only=local_files_only)
    record = AdapterRecord.read(folder)
    if base is None or isinstance(base, str | os.PathLike):
        model = _load_base(record, base, adapter, token=token, local_files_only=local_files_only)
    else:
        model = base
    if record is None:
        warnings.warn(f"{adapter} does not say which base it was trained on, so this one is not checked.", stacklevel=2)
    else:
        _refuse_other_base(model, record, adapter)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (UserWarning, SafetensorError) as error:
        raise CheckpointError(
            f"The adapter {adapter} is damaged or incomplete ({error}). Fetch or save it again."
        ) from error


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Work an adapter into its base: an ordinary model, with the same results, that needs PEFT no more.

    Raises
    ------
    ValueError
        If the kind of adapter cannot be merged (prompts), or the merged weights would not be finite.
    """
    from peft.utils import ModulesToSaveWrapper

    if not hasattr(model.base_model, "merge_and_unload"):
        kind = model.peft_config[model.active_adapter].peft_type
        raise ValueError(
            f"An adapter of the kind {kind} changes the input, not the weights: it cannot be merged. Save it as it is."
        )
    # For IA3, peft takes a module that was trained whole for one with a weight, which a head of several layers has not.
    inner: Any = model.base_model.model
    for name, module in list(inner.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            inner.set_submodule(name, module.unload_and_optionally_merge_module(True, True, None))
    return model.merge_and_unload(safe_merge=True)


def _load_base(
    record: AdapterRecord | None,
    base: str | os.PathLike[str] | None,
    adapter: str | os.PathLike[str],
    *,
    token: str | bool | None,
    local_files_only: bool,
) -> PreTrainedModel:
    """Load the base with the class and the labels that the adapter was trained with."""
    if record is None or (base is None and record.base_model is None):
        raise CompatibilityError(
            f"{adapter} does not say where its base is to be had. Load the base yourself, and pass it as base=."
        )
    if base is None:
        folder = pull(
            str(record.base_model), revision=record.base_revision, token=token, local_files_only=local_files_only
        )
    elif Path(base).is_dir():
        folder = Path(base)
    else:
        folder = pull(str(base), token=token, local_files_only=local_files_only)
    labels = {int(number): label for number, label in record.id2label.items()}
    named = {"id2label": labels, "label2id": {label: number for number, label in labels.items()}} if labels else {}
    return _class_of_base(record.base_class).from_pretrained(folder, **named)


def _class_of_base(name: str) -> Any:
    """A model class of this library or of transformers, and of nothing else: the name comes from a file."""
    import transformers

    from scfm_hf.models.registry import families

    for spec in families().values():
        if name in spec.class_names:
            return spec.load_class(name)
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise CompatibilityError(
        f"The adapter's base is a {name}, which neither scfm_hf nor transformers has. Pass the loaded base as base=."
    )


def _refuse_other_base(base: PreTrainedModel, record: AdapterRecord, adapter: str | os.PathLike[str]) -> None:
    """Raise CompatibilityError unless the base is the one that the record describes."""
    home = f"{record.base_model or 'a base without a name on a hub'}"
    home += f" at {record.base_revision}" if record.base_revision else ""
    cure = f"Load the adapter on {home}."
    digest = getattr(base.config, "vocabulary_digest", None)
    if record.vocabulary_digest and digest and digest != record.vocabulary_digest:
        raise CompatibilityError(
            f"{adapter} was trained on a base with another vocabulary (sha256 {record.vocabulary_digest[:12]}…, "
            f"this one has {digest[:12]}…). {cure}"
        )
    differing, complete = differing_weights(base, record.weights, without=record.modules_to_save)
    if differing:
        shown = ", ".join(differing[:3]) + (", …" if len(differing) > 3 else "")
        raise CompatibilityError(
            f"{adapter} was trained on another base: {len(differing)} of {len(record.weights)} weights differ "
            f"({shown}). {cure}"
        )
    if not complete and _is_other(origin_of(base), record):
        raise CompatibilityError(
            f"{adapter} was trained on another base than {base.name_or_path}, whose weights, loaded with fewer bits, "
            f"cannot be compared. {cure}"
        )


def _is_other(origin: Origin, record: AdapterRecord) -> bool:
    """Whether names or commits, where both sides know them, differ."""
    pairs = ((origin.model_id, record.base_model), (origin.revision, record.base_revision))
    return any(one and other and one != other for one, other in pairs)


def _update_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | changes, indent=2, sort_keys=True) + "\n", encoding="utf-8")
