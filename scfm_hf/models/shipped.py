"""Models that ship with the package: their hub ids lead to package data, so that they load without a network.

A folder ``shipped/<name>`` of a family holds a saved model with its tokenizer; its id is ``scfm_hf/<name>``. The Auto
classes of transformers, which know folders and the hub alone, are given the folder in place of such an id.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

from scfm_hf.models.registry import families

#: Organisation that the ids of shipped models begin with.
OWNER = "scfm_hf"


@functools.cache
def shipped_models() -> dict[str, Path]:
    """Id of each model that ships -> its folder.

    Returns
    -------
    Such as ``{"scfm_hf/cellprofile-human": Path(...)}``; every id works wherever a hub id does.
    """
    found: dict[str, Path] = {}
    for spec in families().values():
        folder = Path(str(files(spec.package))) / "shipped"
        found |= {f"{OWNER}/{path.name}": path for path in sorted(folder.glob("*")) if (path / "config.json").is_file()}
    return found


def place_of(name: Any) -> Any:
    """The folder of a shipped model's id, as a string; anything else as it is."""
    if isinstance(name, str) and name.startswith(f"{OWNER}/") and name in shipped_models():
        return str(shipped_models()[name])
    return name


def resolve_ids(loader: Any) -> None:
    """Let ``loader.from_pretrained`` know the ids of shipped models; doing it twice does no harm.

    What was loaded keeps the id as its name, so that an adapter trained on it names a base that others can load.
    """
    original = loader.from_pretrained.__func__  # its own, as most Auto classes have, or an inherited one
    if hasattr(original, "resolves_shipped_models"):
        return

    @functools.wraps(original)
    def from_pretrained(cls: type[Any], pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        place = place_of(pretrained_model_name_or_path)
        loaded = original(cls, place, *args, **kwargs)
        if place != pretrained_model_name_or_path:
            for part in loaded if isinstance(loaded, tuple) else (loaded,):
                _keep_name(part, pretrained_model_name_or_path)
        return loaded

    from_pretrained.resolves_shipped_models = True  # type: ignore[attr-defined]
    loader.from_pretrained = classmethod(from_pretrained)


def _keep_name(loaded: Any, name: str) -> None:
    """Name a model, configuration or tokenizer after the id that it was asked for by."""
    for owner in (loaded, getattr(loaded, "config", None)):
        if owner is not None and hasattr(owner, "name_or_path"):
            owner.name_or_path = name
