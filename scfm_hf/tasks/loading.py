"""Model and tokenizer of a task: loaded from wherever they are, and checked to belong together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import AutoModel, AutoTokenizer

from scfm_hf.errors import CompatibilityError
from scfm_hf.models.registry import family_of
from scfm_hf.models.shipped import shipped_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from scfm_hf.models.registry import FamilySpec
    from scfm_hf.tokenization import CellTokenizer

#: What a task takes as its model: a loaded one, a folder, or a hub id.
ModelLike = Any


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference, with its tokenizer.

    Parameters
    ----------
    model, tokenizer
        A pair that belongs together.
    spec
        The family.
    name, revision
        Where the model came from: folder or hub id, and the commit if it came from a hub.
    """

    model: PreTrainedModel
    tokenizer: CellTokenizer
    spec: FamilySpec
    name: str
    revision: str | None


def load_for_task(
    model: ModelLike,
    tokenizer: CellTokenizer | str | os.PathLike[str] | None = None,
    *,
    base: PreTrainedModel | str | os.PathLike[str] | None = None,
    auto_class: Any = AutoModel,
    revision: str | None = None,
    device: str | None = None,
) -> LoadedModel:
    """Load what a task needs.

    Parameters
    ----------
    model
        A loaded model, a folder or a hub id.
    tokenizer
        A loaded tokenizer, a folder or a hub id; None takes the one beside the model.
    base
        Where the base of an adapter is; None takes the one that the adapter names.
    auto_class
        Auto class to load the model with.
    revision
        Branch, tag or commit on the hub.
    device
        Where to put a model that is loaded here; None: an accelerator if there is one.

    Raises
    ------
    CompatibilityError
        If the tokenizer's vocabulary is not the model's, or no tokenizer was found.
    """
    import torch

    if isinstance(model, (str, os.PathLike)):
        source = os.fspath(model)
        loaded = _from_pretrained(source, base, auto_class, revision)
        # Each of the ranks that torchrun starts on a machine has an accelerator of its own.
        accelerator = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        loaded.to(device or (accelerator if torch.cuda.is_available() else "cpu"))
    else:
        loaded = model.to(device) if device else model
        source = getattr(model.config, "_name_or_path", "") or type(model).__name__
    commit = getattr(loaded.config, "_commit_hash", None) or revision
    spec = family_of(loaded)
    if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
        # An adapter has no tokenizer of its own: that of its base serves.
        place = os.fspath(tokenizer) if tokenizer is not None else getattr(loaded.config, "_name_or_path", "")
        if not place:
            raise CompatibilityError("The model does not say where it came from: give its tokenizer with tokenizer=.")
        options = {"revision": revision} if revision and place == source else {}
        found: CellTokenizer = AutoTokenizer.from_pretrained(place, **options)
    else:
        found = tokenizer
    check_pair(found, loaded)
    return LoadedModel(loaded, found, spec, source, commit)


def _from_pretrained(source: str, base: Any, auto_class: Any, revision: str | None) -> PreTrainedModel:
    """A model, or an adapter on the base that it was trained on."""
    from transformers.utils import find_adapter_config_file

    options: dict[str, Any] = {"revision": revision} if revision else {}
    if source in shipped_models() or find_adapter_config_file(source, **options) is None:
        if base is not None:
            raise CompatibilityError(f"{source} is a whole model, not an adapter: it has no base.")
        return auto_class.from_pretrained(source, **options)
    from scfm_hf.hub import load_adapter

    return load_adapter(source, base=base, **options)


def check_pair(tokenizer: CellTokenizer, model: PreTrainedModel) -> None:
    """Raise CompatibilityError unless tokenizer and model were built for the same vocabulary."""
    wanted, found = model.config.vocabulary_digest, tokenizer.vocabulary_digest
    if wanted is None:
        size = getattr(model.get_input_embeddings(), "num_embeddings", None)
        if size is not None and size != len(tokenizer):
            raise CompatibilityError(
                f"The tokenizer has {len(tokenizer)} entries, the model's embedding {size}: they do not belong "
                "together. Load both from the same folder."
            )
    elif wanted != found:
        raise CompatibilityError(
            f"The tokenizer's vocabulary ({len(tokenizer)} entries, digest {found[:12]}…) is not the one that the "
            f"model was built for (digest {wanted[:12]}…): its ids would mean other genes. Load both from the same "
            "folder or revision."
        )
